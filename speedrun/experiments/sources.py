"""The code that a log carries: checked, unpacked, and where it differs from this checkout's."""
import difflib
from collections import Counter
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.log.format import Log
from speedrun.text import printable
from speedrun.verify.header import SOURCE_PATH, here

MAX_FILES, MAX_BYTES, MAX_LINES = 200, 4 * 2**20, 20_000  # of all sources together
MAX_PATH = 120
SHOWN_LINES, SHOWN_COLUMNS = 120, 160  # of a file's diff


def checked_sources(log: Log) -> dict[str, str]:
    """path -> text of the sources; Refusal for a path that does not plainly stay under its folder, or is
    another's (in upper or lower case, or as its folder), and for too many or too large ones."""
    seen: set[str] = set()
    rows = [(line, data.get("path")) for line, data in log.of_kind("source")]

    def refuse(what):
        where = f"{printable(log.path, 400)}:{line}"
        raise Refusal(f"{where}: the source '{printable(path, 60)}' {what}; nothing was unpacked")

    for line, path in rows:
        if not isinstance(path, str) or len(path) > MAX_PATH or not SOURCE_PATH.fullmatch(path):
            refuse("is no path of a Python file under the run's folder")
        if path.lower() in seen:
            refuse("is there twice")
        seen.add(path.lower())
    for line, path in rows:
        if any(str(parent) in seen for parent in Path(path.lower()).parents):
            refuse("is in what another source calls a file")
    texts = log.sources.values()
    size, lines = sum(len(t.encode()) for t in texts), sum(t.count("\n") for t in texts)
    if len(rows) > MAX_FILES or size > MAX_BYTES or lines > MAX_LINES:
        raise Refusal(f"{printable(log.path, 400)}: {len(rows)} sources of {lines} lines and {size} bytes; "
                      f"{MAX_FILES}, {MAX_LINES} and {MAX_BYTES} are allowed; nothing was unpacked")
    if "train_gpt.py" not in log.sources:
        raise Refusal(f"{printable(log.path, 400)}: it carries no train_gpt.py, so there is nothing to run")
    return dict(log.sources)


def unpack(sources: dict[str, str], folder: Path) -> None:
    """Write each source under the new `folder`, which holds no file and no link that it did not make."""
    for path, text in sources.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(text.encode())


def diff(path: str, text: str) -> list[str]:
    """The unified diff from this checkout's file to the log's, each line plain text; [] where equal."""
    ours = here(path)
    if ours == text:
        return []
    # split at newlines alone: what else breaks a line on a screen is shown as an escape
    before, after = ((t or "").removesuffix("\n").split("\n") for t in (ours, text))
    found = difflib.unified_diff(before if ours else [], after if text else [],
                                 f"{path} (this checkout)" if ours is not None else "/dev/null",
                                 f"{path} (the log)", lineterm="")
    return [printable(line[:SHOWN_COLUMNS]) + (
        f" ... {len(line) - SHOWN_COLUMNS} more characters" if len(line) > SHOWN_COLUMNS else "")
        for line in found]


def shortened(rows: list[str], file: Path) -> list[str]:
    """A long diff without the lines taken out, for they could push what will run out of sight; then cut."""
    if len(rows) <= SHOWN_LINES:
        return rows
    kept = rows[:2] + [row for row in rows[2:] if not row.startswith("-")]
    return [*kept[:SHOWN_LINES], f"... not shown: {len(rows) - len(kept)} lines taken out and "
                                 f"{max(0, len(kept) - SHOWN_LINES)} more lines of this diff; read {file}"]


def listing(sources: dict[str, str], folder: Path) -> list[str]:
    """The files unpacked in `folder`, each with its difference from this checkout's; then the differences."""
    diffs = {path: diff(path, text) for path, text in sources.items()}
    found = [f"{len(sources)} files, unpacked in {folder}:"]
    for path, text in sources.items():
        counts = Counter(line[0] for line in diffs[path][2:])
        change = f"differs: +{counts['+']} -{counts['-']}" if diffs[path] else "as in this checkout"
        found.append(f"  {path:<32} {text.count(chr(10)):5} lines  "
                     f"{change if here(path) is not None else 'not in this checkout'}")
    return found + ["\n".join(["", *shortened(rows, folder / path)]) for path, rows in diffs.items() if rows]
