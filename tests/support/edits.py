"""Fixtures of the tests of scripts/verify.py, and the edits that they make to a log in pieces."""
import json
import re
import sys
from pathlib import Path

import pytest

from scripts import verify
from speedrun import ROOT
from tests.support import clone
from tests.support.made_logs import make_log

FAILURE = re.compile(r"(.*?):([0-9]+): ([a-z0-9_]+): (.+)")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The text of a log that stands: the laptop track, aurora, seeds 0 1 2."""
    return make_log(tmp_path_factory.mktemp("whole") / "log.txt", "--seeds 0 1 2").read_text()


@pytest.fixture
def check(capsys, tmp_path):
    """check(text or paths) -> exit code and [(line, rule, what)] of what verify prints."""
    def run(*paths, text=None):
        if text is not None:
            paths = [tmp_path / "edited.txt"]
            paths[0].write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        code = verify.main([*map(str, paths), "--history", str(clone.clone())])
        out = capsys.readouterr().out
        assert all(c == "\n" or c.isprintable() for c in out)
        rows = [FAILURE.fullmatch(line) for line in out.splitlines()]
        return code, [(int(row[2]), row[3], row[4]) for row in rows if row]
    return run


########################################
#                Edits                 #
########################################


def at(pieces: list, start: str, nth: int = 0) -> int:
    """Where the nth piece whose first line starts with `start` is."""
    return [i for i, piece in enumerate(pieces) if piece[0].startswith(start)][nth]


def swap(start: str, old: str, new: str, nth: int = 0):
    """An edit: `old` becomes `new` in the nth line that starts with `start`."""
    def edit(pieces):
        i = at(pieces, start, nth)
        assert old in pieces[i][0], (start, old)
        pieces[i][0] = pieces[i][0].replace(old, new, 1)
    return edit


def pattern(start: str, old: str, new, nth: int = 0):
    """As `swap`, `old` a pattern that must match."""
    def edit(pieces):
        i = at(pieces, start, nth)
        pieces[i][0], count = re.subn(old, new, pieces[i][0], count=1)
        assert count, (start, old)
    return edit


def fields(start: str, change, nth: int = 0):
    """An edit of the event's JSON: `change` gets it as a dict."""
    def edit(pieces):
        i = at(pieces, start, nth)
        head, _, data = pieces[i][0].rsplit(" #", 1)[0].partition(" {")
        found = json.loads("{" + data)
        change(found)
        pieces[i][0] = f"{head} {json.dumps(found)} #{pieces[i][0].rsplit(' #', 1)[1]}"
    return edit


def drop(start: str, nth: int = 0):
    return lambda pieces: pieces.pop(at(pieces, start, nth))


def double(start: str, nth: int = 0):
    return lambda pieces: pieces.insert(at(pieces, start, nth), list(pieces[at(pieces, start, nth)]))


def move(start: str, nth: int, behind: str, m: int = 0):
    def edit(pieces):
        piece = pieces.pop(at(pieces, start, nth))
        pieces.insert(at(pieces, behind, m) + 1, piece)
    return edit


def section(pieces, seed: int) -> slice:
    return slice(at(pieces, '@ seed {"seed": %d}' % seed), at(pieces, '@ outcome {"seed": %d,' % seed) + 1)


def drop_section(pieces):
    del pieces[section(pieces, 1)]


def swap_sections(pieces):
    first, second = pieces[section(pieces, 0)], pieces[section(pieces, 1)]
    pieces[section(pieces, 0).start:section(pieces, 1).stop] = second + first


def double_section(pieces):
    pieces[section(pieces, 1).stop:section(pieces, 1).stop] = [list(p) for p in pieces[section(pieces, 1)]]


def rename_section(pieces):
    for piece in pieces[section(pieces, 2)]:
        piece[0] = piece[0].replace('"seed": 2', '"seed": 7').replace(" seed:2", " seed:7")


def both(*edits):
    return lambda pieces: [edit(pieces) for edit in edits]


def in_source(path: str, old: str, new: str):
    def edit(pieces):
        piece = pieces[at(pieces, f'@ source {{"path": "{path}"')]
        i = next(i for i, line in enumerate(piece) if i and old in line)
        piece[i] = piece[i].replace(old, new, 1)
    return edit
