"""Writes a record log: each event is on the disk before the call returns."""
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from speedrun.cli import Refusal, go_on

from .format import FORMAT, NO_END, clocks, link, now
from .reader import read_log

CLOCK_STEP = 1.5  # seconds from which a step of the time of day is noted; times in a log are whole seconds


class LogWriter:
    """Appends events to a new log; each is on the disk before the call returns.

    A write that fails (a full disk) is taken back, so the log ends with a whole event, and raises Refusal.
    """

    def __init__(self, path: Path):
        self.path, self.hash, self.closed, self.opened = Path(path), "", False, clocks()
        try:
            self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise Refusal(f"cannot write the log {path} ({error.strerror}); choose "
                          "another --log-dir") from None
        self._line(f"@ log {json.dumps(dict(format=FORMAT, started=now()))}")

    @classmethod
    def reopen(cls, path: Path, **about) -> "LogWriter":
        """The log of a run that stopped, open for appending after a `resume` event that holds `about`.

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
        self.path, self.closed, self.opened = Path(path), False, clocks()
        self.hash = data[:whole].rstrip(b"\n").rsplit(b" #", 1)[1].decode()
        try:
            self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise Refusal(f"cannot write the log {path} ({error.strerror}); fix its permissions") from None
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
        """Close the log: complete, interrupted, diverged or failed. Later calls do nothing.

        `seconds` is how long this process had it open, by a clock that nobody sets; `clock_step` by how much
        the time of day moved otherwise meanwhile, where it did: set by a time server, or the machine slept.
        """
        if self.closed:
            return
        self.closed, data = True, dict(status=status, ended=now(), **data)
        wall, seconds = (after - before for before, after in zip(self.opened, clocks()))
        data["seconds"] = round(seconds, 1)
        if abs(wall - seconds) > CLOCK_STEP:
            data["clock_step"] = round(wall - seconds, 1)
        try:
            self._line(f"@ end {json.dumps(data)}")
        except Refusal:
            if status == "complete":
                raise  # else what ended the run is what its person must read, often the same full disk
        finally:
            os.close(self.file)
