"""scripts/preflight.py: the command, disk, log folder and ranks; real folders and processes."""
import json
import os
import shutil
import subprocess
import sys

import pytest

import train_gpt
from scripts.preflight import main
from speedrun.cli import Refusal
from speedrun.log.folder import lock_folder
from speedrun.preflight import machine
from speedrun.preflight import run as run_checks
from speedrun.preflight.run import world_size
from speedrun.training import estimate
from speedrun.training.world import join_world
from tests.support.plans import ONE, ROOT, SMALL, ask, folder, meta, only, plan_of, run  # noqa: F401

pytestmark = pytest.mark.process

# ---------------------------------------------------------------- the command


def test_a_run_that_is_ready_and_nothing_left_behind(laptop, tmp_path):
    logs = tmp_path / "not" / "yet"
    done = run(sys.executable, ROOT / "scripts/preflight.py", "--device", "cpu", "--track", "laptop",
               "--data-dir", laptop, "--log-dir", logs, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr, result["ready"], result["stop"]) == (0, "", True, 0), done.stderr
    assert {f["check"] for f in result["findings"]} == {"ranks", "shards", "versions", "gpus", "attention",
                                                       "memory", "folder", "disk"}
    assert any("sha256 as recorded" in f["what"] for f in result["findings"])
    assert list(tmp_path.iterdir()) == []


def test_text_names_the_worst_first_and_the_exit_code_is_1(folder, capsys):
    (folder / "fineweb_val_000000.bin").write_bytes(b"")
    assert main([*SMALL, "--data-dir", str(folder)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and lines[0].startswith("stop  shards: ") and "zero bytes" in lines[0]
    assert "run `rm " in lines[0] and lines[-1].startswith("not ready: 1 stop")


@pytest.mark.parametrize("args", [["--trak", "laptop"], ["--recipe", "arora"], ["--steps"], ["--track", "x"],
                                  ["--track", "laptop", "--track.context", "64"]])
def test_wrong_arguments_get_the_trainers_own_line(args, capsys):
    assert train_gpt.main(["--device", "cpu", *args]) == 2
    own = capsys.readouterr().err.split(": ", 1)[1]
    assert main(["--device", "cpu", *args]) == 2
    assert capsys.readouterr().err.split(": ", 1)[1] == own and own.count("\n") == 1


def test_help_has_examples_and_bad_questions_are_refused(capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "examples:\n  python scripts/preflight.py" in capsys.readouterr().out
    assert main(["--nproc", "0"]) == 2 and "at least 1" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--device", "cpu", "--nproc", "2"]) == 2 and "torchrun" in capsys.readouterr().err


# ---------------------------------------------------------------- disk and log folder


@pytest.fixture
def little_disk(tmp_path, monkeypatch):
    """A folder on a disk with less than 64 MB free: a small tmpfs where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount and not subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", place],
                                    capture_output=True).returncode:
        yield place
        subprocess.run(["umount", place], check=True)
    else:
        usage = shutil.disk_usage(place)._replace(free=8 * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
        yield place


def test_a_disk_too_small(little_disk, laptop):
    plan = train_gpt.parse(["--device", "cpu", "--track", "laptop", "--data-dir", str(laptop),
                            "--log-dir", str(little_disk / "run")])
    stop = only(machine.disk(plan, meta(plan)), "stop")
    assert "8 MB free" in stop.what and "--log-dir" in stop.fix
    with pytest.raises(Refusal, match="disk: 8 MB free") as refusal:
        machine.quick(plan, ONE, meta(plan))
    assert refusal.value.code == 1 and "\n" not in str(refusal.value)


def test_disk_counts_weights_and_checkpoints(folder):
    plan = plan_of(folder, "--seeds", "0", "1", "--save")
    plan.args.checkpoint_every = 100
    needs, model = estimate.disk_bytes(plan, meta(plan)), meta(plan)
    weights = sum(p.nbytes for p in model.parameters())
    assert needs["weights"] == 2 * weights and needs["checkpoints"] > 3 * 1.5 * weights
    many = train_gpt.parse([*SMALL[:4], "--seeds", *map(str, range(400))])
    assert estimate.disk_bytes(many, model)["log"] > needs["log"]


def test_log_folder(tmp_path, folder, capsys):
    assert run_checks.folder(plan_of(folder, "--log-dir", tmp_path / "a" / "b"))[0].level == "ok"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        stop = only(run_checks.folder(plan_of(folder, "--log-dir", tmp_path / place)), "stop")
        assert "cannot write in the log folder" in stop.what and "--log-dir" in stop.fix
    lock = lock_folder(tmp_path / "held")
    code, result = ask(capsys, *SMALL, "--data-dir", folder, "--log-dir", tmp_path / "held")
    assert code == 1 and "another run is writing" in str(result["findings"][0])
    lock.close()
    assert run_checks.folder(plan_of(folder, "--log-dir", tmp_path / "held"))[0].level == "ok"
    (tmp_path / "held" / "log.txt").touch()
    stop = only(run_checks.folder(plan_of(folder, "--log-dir", tmp_path / "held")), "stop")
    assert "holds a run already" in stop.what and "--resume" in stop.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_log_folder(tmp_path, folder):
    (tmp_path / "mine").mkdir(mode=0o500)
    assert "Permission denied" in only(run_checks.folder(plan_of(folder, "--log-dir", tmp_path / "mine")),
                                       "stop").what


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 32])
def test_ranks_are_judged_as_the_trainer_judges_them(laptop, size, monkeypatch):
    plan = train_gpt.parse(["--device", "cpu", "--track", "laptop", "--data-dir", str(laptop)])
    finding = world_size(plan, size, launched=True)[0]
    if 16 % size == 0:
        assert finding.level in ("ok", "warn")  # a warning where there are fewer cores
        return
    monkeypatch.setenv("WORLD_SIZE", str(size))
    with pytest.raises(Refusal, match=f"world size {size}"):
        join_world("cpu", 16, 1024)
    assert finding.level == "stop" and "1, 2, 4, 8, 16 do" in finding.what
    assert f"--nproc_per_node={max(n for n in (1, 2, 4, 8, 16) if n < size)} train_gpt.py" in finding.fix


def test_ranks_meet(folder, capsys):
    code, result = ask(capsys, *SMALL, "--data-dir", folder, "--nproc", "2")
    said = [f for f in result["findings"] if f["check"] == "collective"]
    assert code == 0 and [f["level"] for f in said] == ["ok"] and "over 2 ranks (gloo)" in said[0]["what"]
    code, result = ask(capsys, *SMALL, "--data-dir", folder, "--nproc", "3")
    assert code == 1 and result["findings"][0]["check"] == "ranks"
    assert not [f for f in result["findings"] if f["check"] == "collective"]


def test_ranks_that_are_too_many_to_start_are_said_not_to_be_checked(laptop, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    _, result = ask(capsys, "--device", "cpu", "--track", "laptop", "--data-dir", laptop, "--nproc", "8")
    (said,) = [f for f in result["findings"] if f["check"] == "collective"]
    assert said["level"] == "warn" and "not checked" in said["what"] and \
        "--nproc_per_node=8 scripts/preflight.py" in said["fix"]


def test_under_torchrun_rank_0_reports_for_all(folder):
    done = run(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               ROOT / "scripts/preflight.py", *SMALL, "--data-dir", folder, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["ready"], done.stderr
    assert [f["level"] for f in result["findings"] if f["check"] == "collective"] == ["ok"]


@pytest.mark.long
def test_ranks_that_cannot_meet(folder, capsys, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    code, result = ask(capsys, *SMALL, "--data-dir", folder, "--nproc", "2")
    stop = result["findings"][0]
    assert code == 1 and stop["check"] == "collective" and "nosuch0" in stop["what"]
    assert "GLOO_SOCKET_IFNAME" in stop["fix"]


def test_a_rank_that_waits_for_one_that_never_comes_ends():
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from speedrun.preflight import collective; "
               "collective.LIMIT = 1; collective.worker('cpu')")
    done = run(sys.executable, "-c", program, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0",
               MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    assert done.returncode == 1 and done.stderr.strip() == "rank 0 of 2 waited 1 s for the others"
