"""Reads a record log, of this project or of modded-nanogpt, and names each line that is not as it should."""
import hashlib
import re
from pathlib import Path

from speedrun.text import plain_json, printable, read_text

from .format import EVENT, MAX_EVENTS, MAX_PROBLEMS, NO_END, STEP, Log, Point, link

MAX_LINES = 10**7                        # of a source
KNOWN_SOURCES: dict[str, str] = {}       # sha256 -> text, of the logs that this process has read


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
        match = lines.match(self.text, self.at)
        found = match[0] if match else ""
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
        self.hash = self.log.last_hash = mark
        resumes = match[1] == "resume" and self.log.status != "complete"
        if self.log.status != "incomplete" and not resumes:
            self.problem(number, "an event after the end; the rest is not read")
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
