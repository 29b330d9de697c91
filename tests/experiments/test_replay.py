"""scripts/replay.py: a real run replayed, a lie found, consent, and logs that want out of their folder."""
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import replay
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.experiments.sources import checked_sources, unpack
from speedrun.log.format import Log
from speedrun.log.reader import read_log
from tests.support.made_logs import make_log, parts, rechain

pytestmark = pytest.mark.process

# The laptop track as small as it gets: `custom`, and a run is little more than its imports.
TINY = ("--device cpu --track laptop --allow-custom --track.val_tokens 256 --track.context 64 "
        "--track.tokens_per_step 256 --track.model.num_layers 1 --track.model.model_dim 32 --steps 3 "
        "--val-every 1 --seeds 4 5 --recipe muon --recipe.lr 0.05")
EVIL = "print('\\x1b[2J', end='')\nopen(r'{}', 'w').close()\n# \x1b]0;owned\x07 \u202e\n"


@pytest.fixture(scope="module")
def short(laptop, tmp_path_factory):
    """The log of a real run of two seeds and three steps, from a process of its own."""
    folder = tmp_path_factory.mktemp("short")
    words = [sys.executable, ROOT / "train_gpt.py", *TINY.split(), "--data-dir", laptop, "--log-dir", folder]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.txt"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made: none is left over, nor anything beside torch's own cache."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert not [path for path in folder.iterdir() if not path.name.startswith("torchinductor_")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The text of a log that verifies, of a run that never was."""
    return make_log(tmp_path_factory.mktemp("made") / "log.txt", "--steps 3").read_text()


def source(path, text: str) -> list[str]:
    return [f"@ source {json.dumps(dict(path=path, lines=0, sha256=''))} #\n",
            *text.splitlines(keepends=True)]


def forged(made: str, folder: Path, *sources) -> Path:
    """A consistent log of these sources, (path, text) each."""
    pieces = [piece for piece in parts(made) if not piece[0].startswith("@ source ")]
    pieces[1:1] = [source(path, text) for path, text in sources]
    log = folder / "forged.txt"
    log.write_bytes(rechain(pieces, digests=True).encode())
    return log


def refused(capsys, *words, code=1) -> str:
    """The one line that it answers with."""
    assert replay.main(list(words)) == code
    err = capsys.readouterr().err
    assert err.startswith("replay.py: ") and err.count("\n") == 1 and err[:-1].isprintable()
    return err


########################################
#              Real replays            #
########################################


def test_a_log_replays_from_its_own_sources(short, laptop, tmp_path, temporary):
    """Its own process, another working directory, and one seed of the two."""
    words = [sys.executable, ROOT / "scripts/replay.py", short, "--seed", "5", "--yes", "--json",
             "--data-dir", laptop, "--log-dir", tmp_path / "again"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, log = json.loads(done.stdout), read_log(short)
    assert found["agrees"] and not found["against"] and found["largest"] <= found["tolerance"] == 2e-3
    assert [(p["seed"], p["step"], p["log"]) for p in found["points"]] == [
        (5, p.step, p.val_loss) for p in log.series[5]] and len(log.series[5]) == 4
    again = read_log(found["replay"])
    assert Path(found["replay"]).parent == tmp_path / "again" and list(again.series) == [5]
    # what the log carries is all that the run needs, and what it ran
    assert again.sources == log.sources and again.header["recipe"] == log.header["recipe"]
    assert again.header["git"] is None  # it did not run in this checkout


def test_a_lie_is_found(capsys, short, laptop, tmp_path, temporary):
    """A loss is changed and every hash computed again: verify cannot know, the replay does."""
    pieces = parts(short.read_text())
    at = next(i for i, piece in enumerate(pieces) if re.match("step:2/3 .* seed:4 ", piece[0]))
    loss = pieces[at][0].split()[1].removeprefix("val_loss:")
    lie = f"{float(loss) - 0.003:.5f}"
    pieces[at][0] = pieces[at][0].replace(loss, lie)
    log = tmp_path / "lie.txt"
    log.write_text(rechain(pieces, digests=True))
    assert not read_log(log).problems
    assert replay.main([str(log), "--seed", "4", "--yes", "--data-dir", str(laptop), "--log-dir",
                        str(tmp_path / "again")]) == 1
    out = capsys.readouterr().out
    assert f"seed 4, step 2: the log has loss {lie}, the replay {loss}" in out
    assert out.strip().splitlines()[-1].startswith("differs: ") and out.count("the log has loss") == 1


########################################
#                Consent               #
########################################


def test_without_a_terminal_nothing_runs(capsys, made, tmp_path, temporary):
    marker = tmp_path / "ran"
    text = (ROOT / "train_gpt.py").read_text()
    text = text.replace("import sys\n", f"open(r'{marker}', 'w').close()\n", 1)
    cli = (ROOT / "speedrun/cli.py").read_text()
    long = "".join(f"x = {i}\n" for i in range(1000)).replace("7\n", f"7;{' ' * 500}import os\n", 1)
    log = forged(made, tmp_path, ("train_gpt.py", text), ("speedrun/cli.py", cli), ("data/new.py", long))
    assert replay.main([str(log)]) == 1 and not marker.exists()
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "nothing was run" in err and "--yes" in err
    lines = out.splitlines()
    assert "3 files, unpacked in" in lines[1] and "differs: +1 -1" in out and "as in this checkout" in out
    assert "-import sys" in lines and f"+open(r'{marker}', 'w').close()" in lines
    assert "not in this checkout" in out and "+x = 9" in lines and "+x = 999" not in lines
    assert f"+x = 7;{' ' * 153} ... 356 more characters" in lines
    assert "... not shown: 0 lines taken out and 883 more lines of this diff" in out
    assert "the log's command: train_gpt.py --steps 3" in lines


@pytest.mark.parametrize("answer", ["n", pytest.param("y", marks=pytest.mark.long)])
def test_a_terminal_is_asked(made, tmp_path, temporary, answer):
    """The code runs after y alone, in the temporary folder, and what it prints is printed as text."""
    marker = tmp_path / "ran"
    log = forged(made, tmp_path, ("train_gpt.py", EVIL.format(marker)))
    master, slave = pty.openpty()
    words = [sys.executable, ROOT / "scripts/replay.py", log, "--log-dir", tmp_path / "again"]
    process = subprocess.Popen(list(map(str, words)), stdin=slave, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    os.close(slave)
    os.write(master, f"{answer}\n".encode())
    out, err = process.communicate()
    os.close(master)
    assert process.returncode == 1 and "[y/N]" in err
    assert marker.exists() == (answer == "y")
    assert ("it left no log" if answer == "y" else "nothing was run") in err.splitlines()[-1]
    assert (r"\x1b[2J" in err) == (answer == "y")
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert r"+# \x1b]0;owned\x07 \u202e" in out  # after some hundred lines taken out


########################################
#             Hostile logs             #
########################################

PATHS = ["/etc/x.py", "../x.py", "a/../../x.py", "a/..", "..", ".", "", "./x.py", "a//x.py", "C:\\x.py",
         "c:/x.py", "a\\x.py", "~/x.py", "x\x1b[2J.py", "x\n.py", "x.py\n", "x\0.py", ".hidden.py",
         "a/.git/x.py", "x.sh", "x.pth", "h\u00e9.py", "a b.py", "x" * 300 + ".py"]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_path_out_of_the_folder_unpacks_nothing(capsys, made, tmp_path, temporary, path):
    before = sorted(tmp_path.rglob("*"))
    log = forged(made, tmp_path, ("train_gpt.py", "pass\n"), (path, "pass\n"))
    said = refused(capsys, log, "--yes")
    assert "nothing was unpacked" in said and "forged.txt:4: " in said
    assert sorted(tmp_path.rglob("*")) == sorted([*before, log])


@pytest.mark.parametrize("paths, says", [
    (["train_gpt.py"], "is there twice"),
    (["a/x.py", "A/X.py"], "is there twice"),
    (["a.py/x.py", "a.py"], "is in what another source calls a file"),
    (["a.py", "A.py/b/x.py"], "is in what another source calls a file"),
    ([f"a/x{i}.py" for i in range(300)], "301 sources")])
def test_sources_that_meet_unpack_nothing(capsys, made, tmp_path, temporary, paths, says):
    log = forged(made, tmp_path, ("train_gpt.py", "pass\n"), *((path, "pass\n") for path in paths))
    said = refused(capsys, log, "--yes")
    assert says in said and "nothing was unpacked" in said


@pytest.mark.parametrize("text, says", [
    ("x" * (5 * 2**20) + "\n", "sources of 1 lines and 5242881 bytes"),
    ("\n" * 30_000, "sources of 30000 lines")], ids=["a long line", "many lines"])
def test_large_sources_unpack_nothing(capsys, made, tmp_path, temporary, text, says):
    assert says in refused(capsys, forged(made, tmp_path, ("train_gpt.py", text)), "--yes")


def test_a_line_of_a_gigabyte_is_not_read(capsys, made, tmp_path, temporary):
    log = tmp_path / "log.txt"
    log.write_text(made)
    os.truncate(log, 2**30)
    assert "more than 64 MB" in refused(capsys, log, "--yes")


ALPHABET = st.sampled_from([*"aA./\\:~ -\0\n\x1b\u202e", "..", "py", ".py"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ALPHABET, max_size=8).map("".join) | st.text(max_size=12) | st.none(), max_size=4))
def test_whatever_the_paths_nothing_leaves_the_folder(tmp_path_factory, paths):
    outer = tmp_path_factory.mktemp("outer")
    inner = outer / "inner"
    inner.mkdir()
    log = Log(Path("log"))
    for path in ["train_gpt.py", *paths]:
        log.sources[path] = "pass\n"
        log.events.append((1, "source", dict(path=path)))
    try:
        sources = checked_sources(log)
    except Refusal:
        return
    unpack(sources, inner)
    written = [path for path in outer.rglob("*") if path != inner and not path.is_dir()]
    assert sorted(path.relative_to(inner).as_posix() for path in written) == sorted(sources)
    assert not any(path.is_symlink() for path in written)


def test_a_header_of_escapes_is_shown_as_text(capsys, made, tmp_path, temporary):
    pieces = parts(made)
    at = next(i for i, piece in enumerate(pieces) if piece[0].startswith("@ run "))
    pieces[at][0] = pieces[at][0].replace('"train_gpt.py --steps 3"',
                                          r'"train_gpt.py --steps 3 --recipe.x \u001b[2J; rm"')
    log = tmp_path / "log.txt"
    log.write_text(rechain(pieces))
    assert replay.main([str(log)]) == 1
    out, err = capsys.readouterr()
    assert r"\x1b[2J" in out and all(c.isprintable() or c == "\n" for c in out + err)


########################################
#          What cannot be replayed     #
########################################


def test_a_log_that_has_no_outcome(capsys, made, tmp_path, temporary):
    def of(text: str) -> Path:
        (tmp_path / "log.txt").write_text(text)
        return tmp_path / "log.txt"

    def changed(old: str, new: str) -> Path:
        return of(rechain([[piece[0].replace(old, new), *piece[1:]] for piece in parts(made)]))

    assert "neither an event nor a validation" in refused(capsys, of(made + "x\n"), "--yes")
    assert "no `end` event" in refused(capsys, of(made[:made.rindex("@ end ")]), "--yes")
    assert "log.txt:" in refused(capsys, of(made.replace("seed:0", "seed:1", 1)), "--yes")
    assert "its status is 'failed'" in refused(capsys, changed('"status": "complete"', '"status": "failed"'))
    assert "a seed that it declares" in refused(capsys, changed('"seeds": [0]', '"seeds": [0, 1]'))
    assert "its command cannot be read" in refused(capsys, changed('"train_gpt.py --steps', '"rm --steps'))
    assert "its header is not complete" in refused(capsys, changed('"world_size": 1', '"world_size": 0'))
    assert "no log of this project" in refused(capsys, of("step:0/10 val_loss:10.8258 train_time:0ms\n"))
    if not torch.cuda.is_available():
        assert "sees no CUDA" in refused(capsys, changed('"device": "cpu"', '"device": "cuda"'))
    assert "No such file" in refused(capsys, tmp_path / "none.txt", code=2)
    assert "carries no train_gpt.py" in refused(capsys, forged(made, tmp_path, ("a.py", "pass\n")))
    assert "--seed 3: the log has 0" in refused(capsys, of(made), "--seed", "3", code=2)
    assert "holds a log already" in refused(capsys, of(made), "--log-dir", tmp_path, code=2)
    assert "unrecognized arguments" in refused(capsys, of(made), "--nosuch", code=2)
