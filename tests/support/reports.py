"""Logs changed event by event, and the page that scripts/report.py makes of logs, as a browser reads it."""
import json
from html.parser import HTMLParser
from pathlib import Path

from scripts import report
from tests.support.made_logs import parts, rechain


def edited(path: Path, to: Path, **changes) -> Path:
    """A copy of a log whose events of some kinds are changed: kind -> a function of the event, whose hashes
    are made again."""
    pieces = parts(path.read_text())
    for piece in pieces:
        line = piece[0].rsplit(" #", 1)[0]
        kind = line.split()[1]
        if line.startswith("@ ") and kind in changes:
            data = json.loads(line.split(" ", 2)[2])
            changes[kind](data)
            piece[0] = f"@ {kind} {json.dumps(data)} #0\n"
    to.write_text(rechain(pieces))
    return to


class Page(HTMLParser):
    """What a browser would make of the page: tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.texts = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


def make(logs, out: Path, *words) -> Page:
    """The page of `report.py LOGS`."""
    assert report.main([*map(str, logs), "--out", str(out), *words]) == 0
    return Page(out / "report.html")
