"""What the checkout's git history says of the sources of a log."""
import hashlib
from functools import cached_property, lru_cache
from pathlib import Path

from speedrun import ROOT
from speedrun.log import git
from speedrun.text import printable

FETCH = "`git fetch --unshallow`"


class History:
    """The commits that HEAD of the clone at `root` descends from, and those that `base` does: a submission's
    HEAD holds its own commits too, the branch that it is meant for is its base."""

    def __init__(self, root: Path, base: str = "HEAD"):
        self.root, self.base, self._trees, self._bases = Path(root), base, {}, {}
        self.known: dict = {}  # what was asked of sources before, by their sha256: many logs hold the same

    @cached_property
    def missing(self) -> str | None:
        """Why nothing can be asked; None for a clone that has its whole history."""
        if not git.is_clone(self.root):
            return ("this checkout is no git clone, or git cannot be run here: clone the repository to check "
                    "sources against its history")
        if git.ask(self.root, "rev-parse", "--is-shallow-repository") != "false":
            return f"this clone is shallow, so history is missing: run {FETCH}"
        if git.ask(self.root, "rev-parse", "--verify", f"{self.base}^{{commit}}") is None:
            return f"this clone has no {printable(self.base, 60)}: fetch it"
        return None

    @cached_property
    def commits(self) -> dict[str, int]:
        """Each commit that HEAD descends from, HEAD too, and when it was made, in seconds since 1970."""
        rows = (git.ask(self.root, "log", "--format=%H %ct", "HEAD") or "").splitlines()
        return {commit: int(time) for commit, time in (row.split() for row in rows)}

    def tree(self, commit: str) -> dict[str, str]:
        """path -> git's hash of the file's content in `commit`; empty where this clone lacks the commit."""
        if commit not in self._trees:
            rows = (git.ask(self.root, "ls-tree", "-r", "-z", commit) or "").split("\0")
            pairs = (row.split("\t", 1) for row in rows if "\t" in row)
            self._trees[commit] = {path: meta.split()[2] for meta, path in pairs}
        return self._trees[commit]

    def reviewed(self, commit: str) -> str | None:
        """The last commit of `base` that `commit` descends from: whose harness a submission must leave as it
        is."""
        if self.base == "HEAD":
            return commit
        if commit not in self._bases:
            self._bases[commit] = git.ask(self.root, "merge-base", commit, self.base)
        return self._bases[commit]

    def altered(self, commit: str, sources: dict[str, str]) -> list[str]:
        """The sources that are not, byte for byte, those of `commit` at their path."""
        tree = self.tree(commit)
        return [path for path, text in sources.items() if tree.get(path) not in blobs(text)]


@lru_cache(maxsize=4096)
def blobs(text: str) -> tuple[str, str]:
    """git's hash of a file with this content, and with its last newline left out: a log completes the last
    line of a file that does not end it."""
    return _blob(text), _blob(text.removesuffix("\n"))


def _blob(text: str) -> str:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


@lru_cache
def _history(root: Path, base: str) -> History:
    return History(root, base)


def history(root: Path | None = None, base: str = "HEAD") -> History:
    """The History of a clone, this checkout's by default; asked once a process."""
    return _history(ROOT if root is None else root, base)
