"""The record log: one plain text file a run, flushed event by event, each event hashed onto the last.

    @ log {"format": 1, ...} #5f0c2a7b9d3e4f61
    @ source {"path": "train_gpt.py", "lines": 612, "sha256": "..."} #...      then those lines, verbatim
    @ run {command, track, recipe, seeds, versions, hardware, data, git} #...
    @ warmup {...} #...        @ seed {"seed": 0, ...} #...
    step:<step>/<steps> val_loss:<nats> train_time:<s>s step_avg:<ms>ms seed:<k> #...
    @ end {"status": "complete", ...} #...

The hash behind an event is the start of sha256(hash of the event before it + the line), so an edit, a splice
or a dropped line is found; a source's lines are covered by the sha256 in its event. Whoever edits a log can
compute the hashes again: they show that a log is consistent, only a replay shows that it is true. A log
without an `end` event is incomplete. The `step:` lines stand at column 0, as modded-nanogpt's own parser
reads them.
"""
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .cli import Refusal

FORMAT = 1
MAX_BYTES = 256 * 2**20  # of text; a log is some hundred kilobytes
EVENT = re.compile(r"@ ([a-z_]+) (\{.*\}) #([0-9a-f]{16})")
STEP = re.compile(r"step:(\d+)/(\d+) val_loss:(\d+\.\d+|nan|inf) train_time:(\d+\.\d+)s "
                  r"step_avg:(\d+\.\d+)ms seed:(\d+)((?: [a-z_]+:\S+)*) #([0-9a-f]{16})")


def link(before: str, line: str) -> str:
    """The 16 hex digits behind `line`, given those behind the event before it ("" at the start)."""
    return hashlib.sha256((before + line).encode()).hexdigest()[:16]


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def lock_folder(folder: Path):
    """Make `folder`, lock it until the returned file is closed or the process ends.

    Refusal where it cannot be written, another run holds it, or the disk has less than 64 MB left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise Refusal(f"cannot write in the log folder {folder} ({error.strerror}); "
                      "choose another with --log-dir") from None
    try:
        import fcntl
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no flock on Windows: the folder is then not guarded
        pass
    except OSError:
        raise Refusal(f"another run is writing in {folder}; wait for it, or choose "
                      "another --log-dir") from None
    if shutil.disk_usage(folder).free < 64 * 2**20:
        raise Refusal(f"less than 64 MB free in the log folder {folder}; free space, or choose "
                      "another --log-dir")
    return lock


class LogWriter:
    """Appends events to a new log; each is on the disk before the call returns.

    A write that fails (a full disk) is taken back, so the log ends with a whole event, and raises Refusal.
    """

    def __init__(self, path: Path):
        self.path, self.hash, self.closed = Path(path), "", False
        try:
            self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise Refusal(f"cannot write the log {path} ({error.strerror}); choose "
                          "another --log-dir") from None
        self._line(f"@ log {json.dumps(dict(format=FORMAT, started=now()))}")

    def _line(self, line: str, body: str = "") -> None:
        mark = link(self.hash, line)
        data = f"{line} #{mark}\n{body}".encode()
        size = os.fstat(self.file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self.file, data[written:])
            os.fsync(self.file)
            self.hash = mark
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self.file, size)
            raise Refusal(f"cannot write the log {self.path} ({error.strerror}); what is written so far is "
                          "whole; free space and run again", everywhere=False) from None

    def event(self, kind: str, **data) -> None:
        """Append one event; `data` must be plain JSON."""
        self._line(f"@ {kind} {json.dumps(data)}")

    def source(self, path: str, text: str) -> None:
        """Append a source file, verbatim (a last line without its newline is completed)."""
        text = text if text.endswith("\n") or not text else text + "\n"
        header = dict(path=path, lines=text.count("\n"), sha256=hashlib.sha256(text.encode()).hexdigest())
        self._line(f"@ source {json.dumps(header)}", body=text)

    def validation(self, step: int, steps: int, val_loss: float, train_time: float, seed: int,
                   **more) -> None:
        """Append one validation: loss in nats, train_time in seconds of the training clock."""
        step_avg = 1000 * train_time / step if step else 0.0
        extra = "".join(f" {key}:{value}" for key, value in more.items())
        self._line(f"step:{step}/{steps} val_loss:{val_loss:.5f} train_time:{train_time:.3f}s "
                   f"step_avg:{step_avg:.2f}ms seed:{seed}{extra}")

    def end(self, status: str, **data) -> None:
        """Close the log: complete, interrupted, diverged or failed. Later calls do nothing."""
        if not self.closed:
            self.closed = True
            self._line(f"@ end {json.dumps(dict(status=status, ended=now(), **data))}")
            os.close(self.file)


@dataclass
class Point:
    """One validation."""

    step: int
    val_loss: float      # nats
    train_time: float    # seconds of the training clock
    line: int            # in the log, from 1


@dataclass
class Log:
    """What a log says, and what is wrong: `problems` holds (line, what), empty for a consistent log."""

    path: Path
    header: dict = field(default_factory=dict)               # the `run` event
    sources: dict[str, str] = field(default_factory=dict)    # path -> text
    events: list = field(default_factory=list)               # (line, kind, data), in order
    series: dict[int, list[Point]] = field(default_factory=dict)  # seed -> validations
    status: str = "incomplete"
    problems: list = field(default_factory=list)


def read_text(path: Path) -> str:
    """The text of a .txt, .gz or .xz log. Refusal where it cannot be read or is over 256 MB unpacked."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"{path}: cannot read this log ({reason})") from None
    if len(data) > MAX_BYTES:
        raise Refusal(f"{path}: more than {MAX_BYTES // 2**20} MB of text is no record log")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(f"{path}: not UTF-8 text, so no record log") from None


def read_log(path: Path) -> Log:
    """Read a record log, check its hashes, its sources and its end. Never raises for what the text says."""
    log = Log(Path(path))
    lines = read_text(path).split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    else:
        log.problems.append((len(lines), "the last line is torn"))
    if not lines or not lines[0].startswith("@ log "):
        log.problems.append((1, "this is not a record log of this project"))
        return log
    at, before = 0, ""
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        match = EVENT.fullmatch(line) or STEP.fullmatch(line)
        if match is None:
            log.problems.append((number, "neither an event nor a validation"))
            continue
        mark = match.groups()[-1]
        if mark != link(before, line[:-18]):
            log.problems.append((number, "the hash does not follow from the event before and this line"))
        before = mark
        if log.status != "incomplete":
            log.problems.append((number, "an event behind the end"))
        if match.re is STEP:
            step, _, loss, seconds, _, seed = match.groups()[:6]
            point = Point(int(step), float(loss), float(seconds), number)
            log.series.setdefault(int(seed), []).append(point)
            continue
        at += _take_event(log, number, match[1], match[2], lines[at:])
    if not log.header:
        log.problems.append((len(lines), "no `run` event: the header is missing"))
    if log.status == "incomplete":
        log.problems.append((len(lines), "no `end` event: the run did not close its log"))
    return log


def _take_event(log: Log, number: int, kind: str, text: str, rest: list) -> int:
    """Enter one event into `log`; returns how many of the lines behind it belong to it."""
    try:
        data = json.loads(text)
    except ValueError:
        log.problems.append((number, "the event is not JSON"))
        return 0
    log.events.append((number, kind, data))
    if kind == "run":
        log.header = data
    elif kind == "end":
        log.status = str(data.get("status"))
    elif kind == "source":
        count = data.get("lines")
        count = count if isinstance(count, int) and 0 <= count <= len(rest) else 0
        source = "".join(line + "\n" for line in rest[:count])
        if hashlib.sha256(source.encode()).hexdigest() != data.get("sha256"):
            what = f"the source of {data.get('path')} does not have the sha256 it states"
            log.problems.append((number, what))
        log.sources[str(data.get("path"))] = source
        return count
    return 0
