"""A clone whose one commit is the working tree, for tests of what stands: edits that are not committed yet
would otherwise keep every made-up log from standing."""
import atexit
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from speedrun import ROOT
from speedrun.training.provenance import OURS

MADE = 1_799_900_000  # when its commit was made: a day before the first made-up log starts


def git(folder: Path, *words: str, time: int = MADE) -> str:
    """The output of a git command in `folder`, with an author, at a time, and none of the environment's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env.update(GIT_AUTHOR_DATE=f"{time} +0000", GIT_COMMITTER_DATE=f"{time} +0000")
    words = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *words)
    done = subprocess.run(["git", "-C", str(folder), *words], env=env, check=True, capture_output=True,
                          text=True)
    return done.stdout.strip()


def commit(folder: Path, time: int = MADE) -> str:
    """Commit all that is in a clone; the commit."""
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-qm", "x", time=time)
    return git(folder, "rev-parse", "HEAD")


def new_clone(folder: Path) -> Path:
    """A repository in the new `folder` with one commit: the code of the working tree."""
    folder.mkdir()
    for name in OURS:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)
        for path in (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else ():
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    git(folder, "init", "-q", "-b", "main")
    commit(folder)
    return folder


@lru_cache
def clone() -> Path:
    """One for all tests of a process, which change nothing in it."""
    top = tempfile.mkdtemp(prefix="clone_")
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    return new_clone(Path(top) / "clone")


@lru_cache
def state() -> dict:
    """What a run in it says of git."""
    return dict(commit=git(clone(), "rev-parse", "HEAD"), changed=False)
