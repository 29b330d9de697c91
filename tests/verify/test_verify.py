"""scripts/verify.py on logs and records that stand, on folders that are no record, and on hostile files."""
import gzip
import json
import lzma
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedrun.verify import rules, verdict
from tests.support import clone
from tests.support.edits import ROOT, at, check, fields, in_source, pattern, verify, whole  # noqa: F401
from tests.support.made_logs import challenged, make_log, parts, rechain

pytestmark = pytest.mark.process  # the lock of the name runs optimizers/ by themselves

########################################
#            What stands               #
########################################


def test_a_log_and_a_record_stand(check, capsys, tmp_path, whole):
    folder = tmp_path / "2027-01-15_aurora"
    folder.mkdir()
    with lzma.open(folder / "log.txt.xz", "wb") as file:
        file.write(whole.encode())
    (folder / "README.md").write_text("hello")
    assert check(folder) == (0, []) and check(text=whole) == (0, [])
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(whole.encode()))
    challenged(folder)
    words = ["--json", "--history", str(clone.clone())]
    assert verify.main([*words, str(tmp_path / "2027-01-15_aurora"), str(packed)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verifies"] and [v["kind"] for v in found["verdicts"]] == ["record", "log"]
    assert [v["outcome"] for v in found["verdicts"]] == ["stands", "consistent"]
    assert not found["stands"] and "it counts once" in found["verdicts"][1]["why"]  # a copy of the first
    claim = found["verdicts"][0]["claim"]
    assert claim["seeds"] == [0, 1, 2] and claim["board"] and claim["track"] == "laptop"
    lines = [line for line in whole.splitlines() if line.startswith(f"step:{claim['step']}/")]
    losses = [float(line.split()[1].split(":")[1]) for line in lines]
    times = [float(line.split()[2].split(":")[1][:-1]) for line in lines]
    assert len(lines) == 3 and claim["mean"] == pytest.approx(sum(losses) / 3) and claim["mean"] < 1.38
    assert claim["seconds"] == pytest.approx(sum(times) / 3) and claim["p"] < 0.0011


@pytest.mark.parametrize("words, says", [
    ("--track fineweb-124m --seeds 3 4 --recipe muon", "3.28 reached at step"),
    ("--track sprint", "the track has no target"),
    ("--seeds 5", "one seed shows nothing of the spread"),
    ("--recipe.lr 0.02 --recipe.matrices.BalancedPolar.beta=0.25 --steps 40 --val-every 7 --seeds 1 2",
     "aurora+lr=0.02+matrices.BalancedPolar.beta=0.25+steps=40, 2 seeds; no claim"),
    ("--track=laptop --allow-custom --track.target none --steps 20 --track.model.mlp_ratio=2", "custom"),
    ("--track 350m --steps 3", "custom")])
def test_other_runs_that_stand(capsys, tmp_path, words, says):
    assert verify.main([str(make_log(tmp_path / "log.txt", words))]) == 0
    assert says in capsys.readouterr().out


########################################
#              A folder                #
########################################


def test_logs_that_are_no_record(check, tmp_path):
    folder = tmp_path / "2027-01-15_aurora"
    folder.mkdir()
    first = make_log(folder / "a.txt", "--seeds 0 1 2")
    assert check(folder)[0] == 0

    def beside(words, says, **options):
        other = make_log(folder / "b.txt", words, **options)
        code, found = check(folder)
        other.unlink()
        assert any(says in what for _, _, what in found) or (not says and not found), found
        return code

    assert beside("--seeds 3 4", "", device="another CPU") == 0
    assert beside("--seeds 2 3", "more than one log: seed 2") == 1
    assert beside("--seeds 4 5", "no log declares seed 3") == 1
    assert beside("--seeds 3 --recipe muon", "different recipe") == 1
    assert beside("--seeds 3 --recipe.lr 0.02", "different recipe") == 1
    assert beside("--seeds 3 --track sprint", "different track") == 1
    assert beside("--seeds 3", "interrupted", status="interrupted") == 1
    (folder / "b.txt").write_text(rechain(_other_code(make_log(tmp_path / "c.txt", "--seeds 3")), True))
    assert "different code" in check(folder)[1][0][2]
    (folder / "b.txt").unlink()
    for name in ("weights.pt", "run.sh", "sub/log.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
        assert "nothing else" in check(folder)[1][0][2]
        (folder / name).unlink()
    (folder / "sub").rmdir()
    (folder / "link.md").symlink_to(first)
    assert "nothing else" in check(folder)[1][0][2]
    folder = folder.rename(tmp_path / "2027-01-15_muon")
    assert {rule for _, rule, _ in check(folder)[1]} == {"folder"}
    folder = folder.rename(tmp_path / "run")
    (folder / "weights_seed0.pt").write_text("x")
    (folder / "wandb").mkdir()
    assert "nothing else" in check(folder)[1][0][2]
    (folder / ".lock").touch()  # a run's own may hold more, but no log that is elsewhere
    assert check(folder)[0] == 0
    (folder / "link.txt").symlink_to(tmp_path / "c.txt")
    assert "nothing else" in check(folder)[1][0][2]


def _other_code(path: Path) -> list:
    # of a changed checkout: of an unchanged one the sources would have to be the commit's
    pieces = parts(path.read_text().replace('"changed": false', '"changed": true'))
    in_source("train_gpt.py", "0.12", "0.13")(pieces)
    return pieces


def test_mixed_hardware_makes_no_time_claim(capsys, tmp_path):
    for i, device in enumerate(("one CPU", "another CPU")):
        make_log(tmp_path / f"{i}.txt", f"--seeds {2 * i} {2 * i + 1}", device=device)
    assert verify.main(["--json", str(tmp_path)]) == 0
    claim = json.loads(capsys.readouterr().out)["verdicts"][0]["claim"]
    assert claim["n"] == 4 and claim["seconds"] is None and claim["no_time"] == "mixed hardware"


def test_failures_as_json(capsys, tmp_path, whole):
    path = tmp_path / "log.txt"
    path.write_text(whole.replace("val_loss:1.", "val_loss:0."))
    assert verify.main(["--json", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)
    verdict, = found["verdicts"]
    assert not found["stands"] and not verdict["stands"] and verdict["claim"] is None
    assert {"path", "line", "rule", "what"} == set(verdict["failures"][0])
    assert len(verdict["failures"]) <= 41  # a rule that fails everywhere does not fill the screen


def test_seeds_declared_log_by_log_are_noticed(capsys, tmp_path):
    for i, seeds in enumerate(("0 1 2", "3", "4 5")):
        make_log(tmp_path / f"{i}.txt", f"--seeds {seeds}")
    assert verify.main([str(tmp_path)]) == 0
    line = capsys.readouterr().out
    assert "6 seeds" in line and "declared in 3 logs" in line and "error is 2.4e-03, not 1.0e-03" in line
    assert verdict.judge_record(tmp_path).claim["looks"] == [3, 4, 6]
    assert verify.main([str(tmp_path / "0.txt")]) == 0 and "declared in" not in capsys.readouterr().out


def test_a_resumed_run_makes_no_time_claim(capsys, tmp_path, whole):
    pieces = parts(whole)
    pieces.insert(at(pieces, "step:100/", 1), ['@ resume {"step": 100} #0\n'])
    (tmp_path / "log.txt").write_text(rechain(pieces))
    assert verify.main([str(tmp_path)]) == 0
    assert "no time claim (resumed runs)" in capsys.readouterr().out


@pytest.mark.parametrize("words, ends", [
    ("--seeds 0 1 2", {0: 1.36, 1: 1.379, 2: 1.39}),  # the mean is below, but not by the rule
    ("--seeds 0", {0: 1.2}),                          # one seed shows no spread
    ("--track fineweb-124m --recipe muon --seeds 0 1 2 3", {0: 3.2781, 1: 3.2781, 2: 3.2781, 3: 3.2781}),
    ("--track fineweb-124m --recipe muon", {0: 3.2761})])
def test_a_record_that_ends_below_its_target_shows_it_and_a_log_need_not(check, tmp_path, words, ends):
    log = make_log(tmp_path / "log.txt", words, ends=ends)
    assert check(log) == (0, [])
    code, found = check(tmp_path)
    assert code == 1 and [row[1] for row in found] == ["evidence"]
    (tmp_path / ".lock").touch()  # the folder of a run: no record yet
    assert check(tmp_path) == (0, [])


def test_a_record_that_ends_above_its_target_stands_and_claims_nothing(capsys, tmp_path):
    make_log(tmp_path / "log.txt", "--seeds 0 1 2", ends={0: 1.37, 1: 1.39, 2: 1.39})
    assert verify.main([str(tmp_path)]) == 0
    assert "no claim: the mean of 3 seeds ends at 1.38333, above the target 1.38" in capsys.readouterr().out


@pytest.mark.parametrize("words, ends, step", [
    ("--track fineweb-124m --recipe muon", {0: 3.27599}, 3250),           # (3.28 - 3.27599) 1^.5 >= .004
    ("--track fineweb-124m --recipe muon --seeds 0 1 2 3", dict.fromkeys(range(4), 3.27799), 3250)])
def test_the_rule_of_the_fineweb_track(capsys, tmp_path, words, ends, step):
    make_log(tmp_path / "log.txt", words, ends=ends)
    assert verify.main([str(tmp_path)]) == 0
    assert f"3.28 reached at step {step}" in capsys.readouterr().out


########################################
#            Hostile files             #
########################################


def test_files_that_are_no_logs(check, tmp_path):
    zeros = tmp_path / "gigabyte.txt"
    with open(zeros, "wb") as file:
        file.truncate(2**30)  # one line, nothing on the disk
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(10**8)))
    packed = lzma.LZMACompressor(preset=0)
    (tmp_path / "bomb.xz").write_bytes(packed.compress(bytes(10**8)) + packed.flush())
    for path, says in ((zeros, "64 MB"), (bomb, "64 MB"), (tmp_path / "bomb.xz", "64 MB"),
                       (tmp_path / "none.txt", "No such file"), (Path("/dev/zero"), "no regular file")):
        code, found = check(path)
        assert code == 1 and says in found[0][2], found
    for name, data, says in (("a.gz", b"not gzip", "cannot read"), ("a.xz", b"not xz", "cannot read"),
                             ("a.txt", b"\xff\xfe", "UTF-8"),
                             ("b.gz", gzip.compress(b"@ log {}\n")[:-3], "cut short"),
                             ("c.gz", gzip.compress(b"x") + b"more", "follows the end"),
                             ("b.txt", b"step:0/9 val_loss:5.0 train_time:0ms step_avg:nanms\n", "modded")):
        (tmp_path / name).write_bytes(data)
        code, found = check(tmp_path / name)
        assert code == 1 and says in found[0][2], found
    (tmp_path / "empty").mkdir()
    assert check(tmp_path / "empty") == (1, [(0, "folder", "holds no log (.txt, .gz, .xz)")])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), at=st.floats(0, 1), cut=st.integers(0, 3000), chained=st.booleans())
def test_no_bytes_crash_it(tmp_path_factory, whole, data, at, cut, chained):
    path, text = tmp_path_factory.mktemp("any") / "log.txt", whole.encode()
    start = int(at * len(text))
    path.write_bytes(text[:start] + data + text[start + cut:])
    assert verify.main([str(path)]) == (0 if data == text[start:start + cut] else 1)


########################################
#               --rerun                #
########################################


@pytest.mark.process
def test_rerun_trains_a_seed_again(laptop, capsys, tmp_path):
    words = ["--track", "laptop", "--steps", "3", "--seeds", "4", "--allow-custom",
             "--track.val_tokens=4096", "--track.tokens_per_step", "512", "--track.model.num_layers", "1"]
    done = subprocess.run([sys.executable, ROOT / "train_gpt.py", *words, "--data-dir", laptop,
                           "--log-dir", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = next(tmp_path.glob("*.txt"))
    if not list((ROOT / "data/laptop").glob("*.bin")):
        subprocess.run([sys.executable, ROOT / "data/sample.py"], check=True)
    assert verify.main([str(log), "--rerun"]) == 0
    assert "training seed 4" in capsys.readouterr().err
    pieces = parts(log.read_text())
    for edit in (pattern("step:3/", r"val_loss:(\S+)", lambda m: f"val_loss:{float(m[1]) - 0.01:.5f}"),
                 fields("@ outcome", lambda o: o.update(val_loss=_last(pieces)))):
        edit(pieces)
    log.write_text(rechain(pieces))
    assert verify.main([str(log)]) == 0  # the forgery agrees with itself
    assert verify.main([str(log), "--rerun"]) == 1
    assert ": rerun: seed 4, step 3: the log has loss" in capsys.readouterr().out


def test_code_that_was_not_committed_is_said(capsys, tmp_path, whole):
    pieces, log = parts(whole), tmp_path / "log.txt"
    fields("@ run", lambda run: run.update(git=dict(commit="0" * 40, changed=True)))(pieces)
    log.write_text(rechain(pieces))
    assert verify.main([str(log), str(next((ROOT / "records/laptop").glob("*_muon")))]) == 0
    said = ["; its code was not committed" in line for line in capsys.readouterr().out.splitlines()]
    assert said == [True, False]


def _last(pieces) -> float:
    return float(re.search(r"val_loss:(\S+)", pieces[at(pieces, "step:3/")][0])[1])


def test_rerun_refuses_other_code_and_other_tracks(capsys, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(rechain(_other_code(make_log(tmp_path / "made.txt", "--seeds 0")), digests=True))
    other = make_log(tmp_path / "sprint.txt", "--track sprint")
    for path, says in ((log, "scripts/replay.py"), (other, "laptop track, not sprint")):
        assert verify.main([str(path), "--rerun"]) == 1
        err = capsys.readouterr().err
        assert says in err and len(err.splitlines()) == 1
    assert verify.main([str(tmp_path), "--rerun"]) == 2


@pytest.mark.process
def test_from_another_folder_as_a_process(tmp_path):
    log = make_log(tmp_path / "log.txt", "--seeds 0 1 2")
    done = subprocess.run([sys.executable, ROOT / "scripts/verify.py", "log.txt", "none.txt"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    says = f"{log.name}: consistent: laptop, aurora, 3 seeds; 1.38 reached"
    assert done.stdout.splitlines()[0].startswith(says)


def test_the_page_of_rules_is_what_the_docstrings_say(capsys):
    assert verify.main(["--rules"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs/rules.md").read_text()
    assert all(rule.words.endswith(".") for rule in rules.RULES)


def test_a_clock_that_is_set_during_a_run_is_noted_and_fails_no_honest_log(check, tmp_path):
    path = make_log(tmp_path / "log.txt", "--seeds 0 1 2", clock_step=-3600)
    end = json.loads(path.read_text().splitlines()[-1][6:].rsplit(" #", 1)[0])
    assert end["clock_step"] == -3600 and end["seconds"] > 400
    assert check(path) == (0, [])
    pieces = parts(path.read_text())
    fields("@ end", lambda data: data.update(seconds=100.0))(pieces)
    assert [rule for _, rule, _ in check(text=rechain(pieces))[1]] == ["clock"]
