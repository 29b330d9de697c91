"""The record log: written event by event, read back, and every edit found."""
import gzip
import lzma
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedrun.cli import Refusal
from speedrun.log.folder import CHECKPOINT, checkpoint_name, lock_folder, logs_in, the_log
from speedrun.log.reader import read_log
from speedrun.log.writer import LogWriter


def write(folder, end=True):
    folder.mkdir(exist_ok=True)
    log = LogWriter(folder / "log.txt")
    log.source("a.py", "x = 1\nstep = 2\n")
    log.source("b.py", "no newline at the end")
    log.event("run", seeds=[0, 1], recipe={"name": "ü"})
    for seed in (0, 1):
        log.validation(0, 20, 5.5, 0.0, seed)
        log.validation(10, 20, 4.25 + seed, 1.5, seed)
        log.validation(20, 20, 4.123456, 3.0, seed)
    if end:
        log.end("complete", note="a\nb")
    return folder / "log.txt"


def test_round_trip(tmp_path):
    log = read_log(write(tmp_path))
    assert log.problems == [] and log.status == "complete"
    assert log.sources == {"a.py": "x = 1\nstep = 2\n", "b.py": "no newline at the end\n"}
    assert log.header["seeds"] == [0, 1] and log.header["recipe"]["name"] == "ü"
    assert [(p.step, p.val_loss, p.train_time) for p in log.series[1]] == [(0, 5.5, 0), (10, 5.25, 1.5),
                                                                           (20, 4.12346, 3)]


def test_the_line_is_the_one_their_parser_reads(tmp_path):
    lines = write(tmp_path).read_text().splitlines()
    assert any(line.startswith("step:10/20 val_loss:4.25000 train_time:1.500s step_avg:150.00ms seed:0 #")
               for line in lines)


@pytest.mark.parametrize("suffix, opener", [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_logs(tmp_path, suffix, opener):
    path = write(tmp_path)
    packed = tmp_path / f"log.txt{suffix}"
    with opener(packed, "wb") as file:
        file.write(path.read_bytes())
    assert read_log(packed).series == read_log(path).series and read_log(packed).problems == []


def test_a_log_without_its_end_is_incomplete(tmp_path):
    log = read_log(write(tmp_path, end=False))
    assert log.status == "incomplete" and "no `end` event" in log.problems[-1][1]


def test_every_changed_dropped_doubled_or_swapped_line_is_found(tmp_path):
    path = write(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    edits = []
    for i, line in enumerate(lines):
        edits.append(lines[:i] + lines[i + 1:])
        edits.append(lines[:i] + [line, line] + lines[i + 1:])
        edits.append(lines[:i] + [line.replace("\n", "\r\n")] + lines[i + 1:])
        if i:
            edits.append(lines[:i - 1] + [line, lines[i - 1]] + lines[i + 1:])
        for j, character in enumerate(line[:-1]):
            if character.isdigit():
                changed = line[:j] + str((int(character) + 1) % 10) + line[j + 1:]
                edits.append(lines[:i] + [changed] + lines[i + 1:])
    for edit in edits:
        path.write_bytes("".join(edit).encode())
        assert read_log(path).problems, "".join(edit)
    assert len(edits) > 200


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), at=st.integers(0, 3000), cut=st.integers(0, 200))
def test_no_bytes_crash_the_reader(tmp_path_factory, data, at, cut):
    path = write(tmp_path_factory.mktemp("log"))
    whole = path.read_bytes()
    changed = whole[:at] + data + whole[at + cut:]
    path.write_bytes(changed)
    try:
        log = read_log(path)
    except Refusal as refusal:
        assert "\n" not in str(refusal)
    else:
        assert changed == whole or log.problems


def test_events_of_a_kind(tmp_path):
    log = LogWriter(tmp_path / "log.txt")
    log.event("run", seeds=[0])
    for step in (3, 5):
        log.event("checkpoint", step=step)
    log.event("fork", step=2)
    log.end("interrupted")
    found = read_log(tmp_path / "log.txt")
    assert found.of_kind("checkpoint") == [(3, {"step": 3}), (4, {"step": 5})] and found.of_kind("seed") == []
    assert found.last("checkpoint") == {"step": 5} and found.last("seed") == {}
    assert found.forked and not found.resumed
    LogWriter.reopen(tmp_path / "log.txt", step=2)
    assert read_log(tmp_path / "log.txt").resumed and not read_log(write(tmp_path / "b")).forked


def test_a_file_that_is_no_log(tmp_path):
    (tmp_path / "x.xz").write_bytes(b"not xz")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    for name in ("x.xz", "x.txt", "missing.txt"):
        with pytest.raises(Refusal, match=name):
            read_log(tmp_path / name)


def test_a_failed_write_is_taken_back(tmp_path):
    path = tmp_path / "log.txt"
    log = LogWriter(path)
    log.event("run", seeds=[0])
    before = path.read_bytes()
    os.close(log.file)
    log.file = os.open(path, os.O_RDONLY)  # every write fails, as on a full disk
    with pytest.raises(Refusal, match="cannot write the log"):
        log.event("seed", seed=0)
    assert path.read_bytes() == before


def test_a_folder_is_locked_until_its_run_ends(tmp_path):
    lock = lock_folder(tmp_path)
    with pytest.raises(Refusal, match="another run"):
        lock_folder(tmp_path)
    lock.close()
    lock_folder(tmp_path).close()


def test_the_names_in_a_folder(tmp_path):
    name = checkpoint_name(2, 1250)
    found = [CHECKPOINT.fullmatch(f"{name}.{end}").groups() for end in ("pt", "json")]
    assert found == [("002", "0001250")] * 2
    write(tmp_path)
    (tmp_path / "log.txt.gz").touch()
    assert logs_in(tmp_path) == [tmp_path / "log.txt"] == [the_log(tmp_path)]
    assert logs_in(tmp_path / "x") == []
    write(tmp_path / "b").rename(tmp_path / "b.txt")
    with pytest.raises(Refusal, match="holds 2 logs"):
        the_log(tmp_path)


def test_a_log_is_never_overwritten(tmp_path):
    write(tmp_path)
    with pytest.raises(Refusal, match="File exists"):
        LogWriter(tmp_path / "log.txt")
