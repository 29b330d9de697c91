"""The record log: one plain text file a run, flushed event by event, each event hashed onto the last.

    @ log {"format": 1, ...} #5f0c2a7b9d3e4f61
    @ source {"path": "train_gpt.py", "lines": 612, "sha256": "..."} #...      then those lines, verbatim
    @ run {command, track, recipe, seeds, versions, settings, hardware, data, git} #...
    @ warmup {...} #...        @ seed {"seed": 0, ...} #...
    step:<step>/<steps> val_loss:<nats> train_time:<s>s step_avg:<ms>ms seed:<k> #...
    @ checkpoint {...} #...    @ resume {...} #...    (where a run that stopped goes on, behind its `end`)
    @ fork {trunk, sha256, step, seconds} #...    (behind `run`: it goes on from that log's checkpoint)
    @ end {"status": "complete", ...} #...

The hash behind an event is the start of sha256(hash of the event before it + the line), so an edit, a splice
or a dropped line is found; a source's lines are covered by the sha256 in its event. Whoever edits a log can
compute the hashes again: they show that a log is consistent, only a replay shows that it is true. A log
without an `end` event is incomplete. The `step:` lines stand at column 0, as modded-nanogpt's own parser
reads them.
"""
import hashlib
import json
import math
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from speedrun.cli import Refusal, go_on
from speedrun.text import plain_json, printable, read_text

FORMAT = 1
NO_END = "no `end` event"
MAX_PROBLEMS, MAX_EVENTS = 20, 200_000  # a text that has more is not read further
MAX_LINES = 10**7                        # of a source
KNOWN_SOURCES: dict[str, str] = {}       # sha256 -> text, of the logs that this process has read
EVENT = re.compile(r"@ ([a-z_]+) (\{.*\}) #([0-9a-f]{16})")
WHOLE = r"(0|[1-9][0-9]{0,17})"
STEP = re.compile(rf"step:{WHOLE}/{WHOLE} val_loss:([0-9]{{1,9}}\.[0-9]{{5}}|nan|inf) "
                  r"train_time:([0-9]{1,9}\.[0-9]{3})s step_avg:([0-9]{1,9}\.[0-9]{2})ms "
                  rf"seed:{WHOLE}((?: [a-z_]+:\S+)*) #([0-9a-f]{{16}})")


def link(before: str, line: str) -> str:
    """The 16 hex digits behind `line`, given those behind the event before it ("" at the start)."""
    return hashlib.sha256((before + line).encode()).hexdigest()[:16]


def without_note(recipe):
    """A resolved recipe without its note, which decides nothing; what is no recipe as it is."""
    return {k: v for k, v in recipe.items() if k != "note"} if isinstance(recipe, dict) else recipe


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

    @classmethod
    def reopen(cls, path: Path, **about) -> "LogWriter":
        """The log of a run that stopped, open for appending behind a `resume` event that holds `about`.

        An event that the stop tore is cut off first. Refusal where the log has other problems.
        """
        data = Path(path).read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
        log = read_log(path)
        wrong = [f"line {line}: {what}" for line, what in log.problems if not what.startswith(NO_END)]
        if wrong or log.foreign is not None:
            raise Refusal(f"{path}: this log is damaged ({(wrong or ['not a log of this project'])[0]}); "
                          "start a new run")
        self = cls.__new__(cls)
        self.path, self.closed = Path(path), False
        self.hash = data[:whole].rstrip(b"\n").rsplit(b" #", 1)[1].decode()
        try:
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise Refusal(f"cannot write the log {path} ({error.strerror}); mend its permissions") from None
        self.event("resume", time=now(), cut_bytes=len(data) - whole, **about)
        return self

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
                          f"whole: free space, then go on with {go_on(self.path.parent)}",
                          everywhere=False) from None

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
        if self.closed:
            return
        self.closed = True
        try:
            self._line(f"@ end {json.dumps(dict(status=status, ended=now(), **data))}")
        except Refusal:
            if status == "complete":
                raise  # else what ended the run is what its person must read, often the same full disk
        finally:
            os.close(self.file)


@dataclass(slots=True)
class Point:
    """One validation."""

    step: int
    val_loss: float      # nats
    train_time: float    # seconds of the training clock
    line: int            # in the log, from 1
    steps: int = 0       # where the run stops
    step_avg: float = math.nan                 # milliseconds
    more: dict = field(default_factory=dict)   # what else the line says: key -> text


@dataclass
class Log:
    """What a log says, and what is wrong: `problems` holds (line, what), empty for a consistent log.

    A log of modded-nanogpt has no header, no hashes, no declared seeds and no status: `foreign` then holds
    what it says of itself (records/modded.py), and `series` its trials by number.
    """

    path: Path
    header: dict = field(default_factory=dict)               # the `run` event
    sources: dict[str, str] = field(default_factory=dict)    # path -> text
    events: list = field(default_factory=list)               # (line, kind, data), in order
    series: dict[int, list[Point]] = field(default_factory=dict)  # seed -> validations
    status: str = "incomplete"
    problems: list = field(default_factory=list)
    foreign: dict | None = None


def read_log(path: Path) -> Log:
    """Read a record log, check its hashes, its sources and its end; or read a log of modded-nanogpt. Never
    raises for what the text says; Refusal where there is no text to read."""
    text = read_text(path)
    if re.search(r"^@ (?:log|source|run|end) \{", text, re.MULTILINE) is None:
        from . import upstream
        return upstream.parse(text, path)
    return _Reader(text, path).read()


class _Reader:
    """Goes through the text line by line; a hostile one may have many, so they are never listed."""

    def __init__(self, text: str, path: Path):
        self.text, self.at, self.number = text, 0, 0
        self.log, self.hash = Log(Path(path)), ""

    def problem(self, number: int, what: str) -> None:
        self.log.problems.append((number, what))

    def line(self) -> str | None:
        """The next line, without its newline; None at the end."""
        if self.at >= len(self.text):
            return None
        end = self.text.find("\n", self.at)
        end = len(self.text) if end < 0 else end
        line, self.at, self.number = self.text[self.at:end], end + 1, self.number + 1
        return line

    def _lines(self, count: int) -> str:
        """The next `count` lines, or what there is of them."""
        # Possessive, so that a hostile text makes it neither slow nor large.
        lines = re.compile(r"(?:[^\n]*+\n){0,%d}+" % min(max(count, 0), MAX_LINES))
        found = lines.match(self.text, self.at)[0]
        taken = found.count("\n")
        if taken < count:  # a torn last line
            found = self.text[self.at:]
        self.at, self.number = self.at + len(found), self.number + taken
        return found

    def read(self) -> Log:
        log = self.log
        if not self.text.startswith("@ log "):
            self.problem(1, "the first line is not the `@ log` event that a record log starts with")
        left = MAX_EVENTS
        while (line := self.line()) is not None and len(log.problems) < MAX_PROBLEMS and left:
            self._take(line)
            left -= 1
        if line is not None:
            self.problem(self.number, f"more than {MAX_PROBLEMS} problems, or {MAX_EVENTS} events; the rest "
                                      "is not read")
            return log  # where what is missing may be
        if not self.text.endswith("\n"):
            self.problem(self.number, "the last line is torn")
        if not log.header:
            self.problem(self.number, "no `run` event: the header is missing")
        if log.status == "incomplete":
            self.problem(self.number, f"{NO_END}: the run did not close its log")
        return log

    def _take(self, line: str) -> None:
        number = self.number
        match = EVENT.fullmatch(line) or STEP.fullmatch(line)
        if match is None:
            ending = ", for it ends with a carriage return" if line.endswith("\r") else ""
            self.problem(number, f"neither an event nor a validation{ending}")
            return
        mark = match.groups()[-1]
        if mark != link(self.hash, line[:-18]):
            self.problem(number, "the hash does not follow from the event before and this line")
        self.hash = mark
        resumes = match[1] == "resume" and self.log.status != "complete"
        if self.log.status != "incomplete" and not resumes:
            self.problem(number, "an event behind the end; the rest is not read")
            self.at = len(self.text)
            return
        if match.re is STEP:
            step, steps, loss, seconds, step_avg, seed, more, _ = match.groups()
            more = dict(pair.split(":", 1) for pair in more.split())
            point = Point(int(step), float(loss), float(seconds), number, int(steps), float(step_avg), more)
            self.log.series.setdefault(int(seed), []).append(point)
            return
        self._take_event(number, match[1], match[2])

    def _take_event(self, number: int, kind: str, text: str) -> None:
        log = self.log
        try:
            data = plain_json(text)
        except ValueError as error:
            self.problem(number, f"the event is not plain JSON: {printable(error)}")
            return
        log.events.append((number, kind, data))
        if kind == "run":
            log.header = data
        elif kind == "end":
            log.status = printable(data.get("status"), 40)
        elif kind == "resume":
            log.status = "incomplete"
        elif kind == "source":
            self._take_source(number, data)

    def _take_source(self, number: int, data: dict) -> None:
        path, count, stated = str(data.get("path")), data.get("lines"), str(data.get("sha256"))
        known = KNOWN_SOURCES.get(stated, "")
        if known and count == known.count("\n") and self.text.startswith(known, self.at):
            # as in a log before it: hundreds of logs hold the same sources
            self.log.sources[path] = known
            self.at, self.number = self.at + len(known), self.number + count
            return
        text = self.log.sources[path] = self._lines(count if type(count) is int else 0)
        if hashlib.sha256(text.encode()).hexdigest() != stated:
            self.problem(number, f"the source of {printable(path)} does not have the sha256 it states")
        elif len(text) < 2**20 and len(KNOWN_SOURCES) < 1000:
            KNOWN_SOURCES[stated] = text
