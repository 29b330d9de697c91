"""scripts/challenge.py: the harness of a commit, the record's optimizers/, and what is written of it."""
import json
import os
import socket
import stat

import pytest

from scripts import challenge as script
from speedrun.cli import Refusal
from speedrun.experiments import challenge
from speedrun.log.reader import read_log
from speedrun.verify.history import History
from speedrun.verify.verdict import verdicts
from tests.support import clone
from tests.support.edits import fields, in_source
from tests.support.made_logs import make_log, parts, rechain

pytestmark = pytest.mark.process

SEEDS = "--seeds 0 1 2"
# In the place of a trainer that trains: it writes the losses that optimizers/losses.json has, by the writer.
STAND_IN = '''
import os, socket, sys
from pathlib import Path
from optimizers.polar import CHALLENGED
from speedrun.log.writer import LogWriter
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = Path(sys.argv[sys.argv.index("--log-dir") + 1])
folder.mkdir(parents=True)
print("variables:", " ".join(sorted(os.environ)))
listener = ("127.0.0.1", int((Path(sys.argv[sys.argv.index("--data-dir") + 1]) / "port").read_text()))
with socket.socket() as network:
    print("network:", network.connect_ex(listener))
if not CHALLENGED:
    sys.exit("train_gpt.py: these optimizers cannot be run")
log = LogWriter(folder / "log.txt")
log.validation(0, 25, 5.54518, 0.0, int(words["--seeds"]))
log.validation(int(words["--steps"]), 25, CHALLENGED, 1.0, int(words["--seeds"]))
log.end("complete")
'''


@pytest.fixture
def record(tmp_path):
    """record(shift) -> the folder of muon's record, whose optimizers/ make the stand-in say at step 25 what
    the log says, and `shift` more; None: that they cannot be run."""
    def make(shift: float | None):
        folder = tmp_path / "2027-01-15_muon"
        folder.mkdir()
        log = make_log(folder / "log.txt", f"--recipe muon {SEEDS}", ends=dict.fromkeys(range(3), 1.3))
        loss = next(p.val_loss for p in read_log(log).series[0] if p.step == 25)  # of every seed
        said = shift if shift is None else round(loss + shift, 5)
        pieces = parts(log.read_text())
        in_source("optimizers/polar.py", "import torch\n", f"import torch; CHALLENGED = {said}\n")(pieces)
        fields("@ run", lambda found: found["git"].update(commit="ab" * 20))(pieces)
        log.write_text(rechain(pieces, digests=True))
        return folder
    return make


@pytest.fixture
def stand_in(tmp_path):
    """A clone whose trainer is the stand-in."""
    folder = clone.new_clone(tmp_path / "clone")
    (folder / "train_gpt.py").write_text(STAND_IN)
    clone.commit(folder, time=clone.MADE + 60)
    return History(folder)


@pytest.fixture
def listening(tmp_path):
    """A folder with the port of this machine at which someone answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "port").write_text(str(server.getsockname()[1]))
        yield tmp_path


@pytest.mark.parametrize("shift, agrees", [(0.0, True), (9e-5, True), (2e-4, False)])
def test_the_harness_of_the_history_trains_the_optimizers_of_the_record(record, stand_in, listening, capsys,
                                                                        monkeypatch, shift, agrees):
    monkeypatch.setenv("MY_SECRET", "x")
    monkeypatch.setattr(script, "history", lambda: stand_in)
    folder = record(shift)
    code = script.main([folder, "--yes", "--by", "a test", "--json", "--data-dir", listening])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert code == (0 if agrees else 1) and found["agrees"] is agrees
    assert found == json.loads((folder / "challenge.json").read_text())
    assert found["harness"] == clone.git(stand_in.root, "rev-parse", "HEAD") and found["by"] == "a test"
    assert "1 files are of no commit" in err and "optimizers/polar.py" in err
    variables = next(line for line in err.splitlines() if line.startswith("variables:"))
    assert "OMP_NUM_THREADS" in variables and "MY_SECRET" not in variables
    assert ("network: 0\n" in err) is not found["isolation"].startswith("no network")
    verdict, = verdicts([folder / "log.txt"], stand_in)
    assert {lock.name: lock.holds for lock in verdict.locks}["challenge"] is agrees


def test_nothing_runs_without_consent_and_nothing_is_written_of_what_does_not_run(
        record, stand_in, listening, capsys, monkeypatch):
    monkeypatch.setattr(script, "history", lambda: stand_in)
    folder = record(None)
    assert script.main([folder]) == 1 and "nothing was run" in capsys.readouterr().err
    assert script.main([folder, "--yes", "--data-dir", listening]) == 1
    assert "these optimizers cannot be run" in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "challenge.json").exists()


def test_the_copy_is_read_only_and_holds_no_test_and_no_script(record, tmp_path):
    asked, folder = challenge.read_challenge(record(0.0)), tmp_path / "code"
    folder.mkdir()
    history = History(clone.clone())
    challenge.assemble(folder, asked, clone.state()["commit"], history)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    assert "CHALLENGED" in (folder / "optimizers/polar.py").read_text()
    assert {"train_gpt.py", "tracks.py", "data/shards.py", "speedrun/log/writer.py"} <= files
    assert not any(name.startswith(("tests/", "scripts/")) for name in files)
    assert all(not os.stat(folder / name).st_mode & stat.S_IWUSR for name in files)
    assert {name for name in files if name.startswith("optimizers/")} == {
        name for name in asked.log.sources if name.startswith("optimizers/")}
    challenge.remove(folder)
    assert not folder.exists()


@pytest.mark.parametrize("words, says", [
    ("--allow-custom --track.target 1.5", "nothing to challenge"), ("--steps 30", "nothing to challenge")])
def test_what_is_on_no_board_is_not_challenged(tmp_path, words, says):
    with pytest.raises(Refusal, match=says):
        challenge.read_challenge(make_log(tmp_path / "log.txt", words))


def test_a_harness_of_no_commit_of_the_history_is_refused(record, stand_in, capsys, monkeypatch):
    monkeypatch.setattr(script, "history", lambda: stand_in)
    assert script.main([record(0.0), "--yes", "--harness", "0" * 40]) == 2
    assert "no commit that HEAD descends from" in capsys.readouterr().err


def test_the_seed_is_drawn_by_the_logs_and_all_are_drawn(tmp_path):
    drawn = set()
    for i in range(12):
        log = make_log(tmp_path / f"{i}.txt", SEEDS, hour=i) if i == 0 else tmp_path / f"{i}.txt"
        if i:
            pieces = parts((tmp_path / "0.txt").read_text())
            fields("@ warmup", lambda found, i=i: found.update(seconds=1 + i / 100))(pieces)
            log.write_text(rechain(pieces))
        drawn.add(challenge.read_challenge(log).seed)
    assert drawn == {0, 1, 2}
