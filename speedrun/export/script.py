"""From the file of an upstream script to that of an exported one, and the difference between the two."""
import difflib
from dataclasses import dataclass
from pathlib import Path

from optimizers import RECIPES, resolve
from speedrun import ROOT
from speedrun.cli import Refusal, near
from speedrun.text import printable

from .sections import UPSTREAM, export

TRACK = "fineweb-124m"  # whose conditions are those of their track 3


@dataclass
class Script:
    """An exported script."""

    text: str
    diff: list[str]   # its unified difference from the upstream script, a line each
    added: int        # lines of it
    removed: int


def export_script(name: str, upstream: Path, out: Path | None = None) -> Script:
    """The script at `upstream` with the recipe `name`, written to `out` where that is given.

    Refusal for an unknown recipe, an `out` that is `upstream`, a script that cannot be read, and as
    sections.export.
    """
    if name not in RECIPES:
        raise Refusal(f"unknown recipe {name!r}; {near(name, RECIPES)}", code=2)
    if out and out.exists() and upstream.exists() and out.samefile(upstream):
        raise Refusal(f"--out {printable(out)} is the --upstream file, which is to stay; name another",
                      code=2)
    before = read_script(upstream)
    try:
        after = export(before, resolve(name, TRACK), ROOT)
    except ValueError as error:  # of Recipe.check
        raise Refusal(str(error)) from None
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(after.encode())
    lines = [text.splitlines(keepends=True) for text in (before, after)]
    diff = list(difflib.unified_diff(*lines, upstream.name, (out or Path(name)).name))
    added, removed = (sum(line.startswith(sign) for line in diff[2:]) for sign in "+-")
    return Script(after, diff, added, removed)


def read_script(path: Path) -> str:
    """The text of a script, its line ends as they are. Refusal where it cannot be read."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise Refusal(f"cannot read {printable(path)} ({error.strerror}); name your copy of {UPSTREAM}",
                      code=2) from None
    except UnicodeDecodeError:
        raise Refusal(f"{printable(path)} is not UTF-8 text; name your copy of {UPSTREAM}") from None
