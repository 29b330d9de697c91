"""What git says of a folder that is the top of its own clone, and of no other."""
import os
import subprocess
from pathlib import Path


def ask(root: Path, *words: str, seconds: float = 60, text: str | None = None) -> str | None:
    """The output of `git WORDS` in `root`; None where git is absent, fails or takes longer.

    text: what it reads. The environment's GIT_* variables, which a hook or a wrapper sets, could name another
    repository, or another object in the place of one: they are taken out.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env.update(GIT_NO_REPLACE_OBJECTS="1", GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
    given = dict(stdin=subprocess.DEVNULL) if text is None else dict(input=text)
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, env=env, timeout=seconds,
                              encoding="utf-8", errors="surrogateescape", **given)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None


def is_clone(root: Path) -> bool:
    """Whether `root` is the top of a clone: a copy without .git inside another repository is none."""
    top = ask(root, "rev-parse", "--show-toplevel")
    return bool(top and Path(top).resolve() == Path(root).resolve())
