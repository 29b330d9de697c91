"""The fault matrix: runs of two ranks that are made to fail. No damaged file is accepted, a resumed run has the
digits of one that nothing disturbed, and its log or the terminal says what happened.

One case a fault runs always; `pytest -m faults tests/test_faults.py` runs the rest, and prints the matrix.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faulting import (BEHIND_TWO, ROOT, Ranks, Torchrun, checkpoints, finish, last_resume,
                            limit_files, outcome, reason, same, text, wait_for)
from tests.test_data_tools import TRAIN1, VAL, fetch, holds, hub  # noqa: F401

LAUNCHERS = [pytest.param(Ranks, id="ranks"), pytest.param(Torchrun, id="torchrun", marks=pytest.mark.faults)]
full = pytest.mark.faults


@pytest.fixture(scope="module")
def undisturbed(laptop, tmp_path_factory):
    """The outcome of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed") / "log"
    with Ranks(laptop, folder) as run:
        assert run.wait() == [0, 0], run.said()
    return outcome(folder)


@pytest.fixture(scope="module")
def stopped(laptop, tmp_path_factory):
    """The folder of a run killed behind its second checkpoint."""
    folder = tmp_path_factory.mktemp("stopped") / "log"
    with Ranks(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        kill(run)
    return folder


def kill(run):
    """SIGKILL every rank, and wait for their end."""
    for pid in run.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.wait()


def goes_on(laptop, folder, undisturbed):
    """Resume the run in `folder`: all its checkpoints load, and its outcome is the undisturbed one. What the
    ranks said."""
    assert checkpoints(folder)[1] == []
    said = finish(laptop, folder)
    assert same(outcome(folder), undisturbed)
    return said


def ours(said):
    """The trainer's own lines; there is no traceback."""
    assert not any("Traceback" in line for line in said), said
    return [line.removeprefix("train_gpt.py: ") for line in said if line.startswith("train_gpt.py: ")]


########################################
#          Ranks and launchers         #
########################################


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_is_killed(laptop, tmp_path, undisturbed, matrix, launcher, victim):
    folder = tmp_path / "log"
    with launcher(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        os.kill(run.pids()[victim], signal.SIGKILL)
        run.wait()
        said = ours(run.said())
    assert len(said) == 1 and re.match(rf"rank {1 - victim} lost the other ranks at step \d+ of seed 0", said[0])
    assert victim == 0 or said[0].startswith(reason(folder))
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("SIGKILL", f"rank {victim}, {launcher.__name__.lower()}", kept, said[0])


def test_a_rank_hangs(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Ranks(laptop, folder, timeout=3) as run:
        wait_for(run, BEHIND_TWO)
        os.kill(run.pids()[1], signal.SIGSTOP)
        run.processes[0].join(60)
        said = ours(run.said())
    assert len(said) == 1 and re.match(r"rank 0 waited 3 s at step \d+ of seed 0 for the other ranks", said[0])
    assert said[0].startswith(reason(folder))
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("SIGSTOP", "rank 1", kept, said[0])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sigterm(laptop, tmp_path, undisturbed, matrix, launcher):
    folder = tmp_path / "log"
    with launcher(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        for pid in [run.launcher.pid] if launcher is Torchrun else run.pids():
            os.kill(pid, signal.SIGTERM)
        codes = run.wait()
        said = ours(run.said())
    assert launcher is Torchrun or codes == [143, 143]
    assert len(said) == 1 and "stopped by a signal" in said[0] and said[0].startswith(reason(folder))
    kept = checkpoints(folder)[0]
    assert max(kept) > 16  # of where it was stopped
    goes_on(laptop, folder, undisturbed)
    assert last_resume(folder)["step"] == max(kept)
    matrix("SIGTERM", "both ranks" if launcher is Ranks else "torchrun", kept, said[0])


@full
@pytest.mark.parametrize("begins", [False, True], ids=["in training", "while its workers begin"])
def test_torchrun_is_killed(laptop, tmp_path, undisturbed, matrix, begins):
    folder = tmp_path / "log"
    with Torchrun(laptop, folder) as run:
        while begins and len(run.pids()) < 2:
            time.sleep(0.002)
        if not begins:
            wait_for(run, BEHIND_TWO)
        left = run.pids()
        assert len(left) == 2
        run.launcher.kill()
        run.launcher.wait()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    kept = checkpoints(folder)[0]
    assert kept == ([] if begins else [8, 16])
    if not begins:
        goes_on(laptop, folder, undisturbed)
    matrix("SIGKILL", f"torchrun, {'beginning' if begins else 'training'}", kept, "(workers end with it)",
           None if begins else True)


@full
def test_torchrun_restarts_by_itself(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Torchrun(laptop, folder, restarts=3) as run:
        for times, victim in enumerate((0, 1, 0)):
            wait_for(run, rf"(?s)(\n@ resume \{{.*){{{times}}}\n@ checkpoint \{{")
            while len(run.pids()) < 2:
                time.sleep(0.01)
            os.kill(run.pids()[victim], signal.SIGKILL)
            wait_for(run, rf"(?s)(\n@ resume \{{.*){{{times + 1}}}")
        assert run.wait() == [0], run.said()
    assert same(outcome(folder), undisturbed) and text(folder).count("\n@ resume {") == 3
    matrix("SIGKILL", "ranks 0, 1, 0, --max-restarts 3", checkpoints(folder)[0], "(goes on by itself)")


def test_a_second_run_in_the_folder_is_refused(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Ranks(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        for pid in run.pids():
            os.kill(pid, signal.SIGSTOP)
        before = text(folder)
        for args in ([], ["--resume", folder]):
            with Ranks(laptop, folder, *args) as second:
                second.outputs = [path.with_suffix(".second") for path in second.outputs]
                assert second.wait() == [1, 1]
        assert text(folder) == before
        for pid in run.pids():
            os.kill(pid, signal.SIGCONT)
        assert run.wait() == [0, 0]
    said = ours(run.said())
    assert same(outcome(folder), undisturbed)
    assert len(said) == 1 and "another run is writing in" in said[0]
    matrix("a second run", "the same folder", checkpoints(folder)[0], said[0])


########################################
#       Kills within a write           #
########################################


def kill_within(run, rng, began):
    """Kill rank 0 at a random moment of a write that began() sees; whether it was still within it."""
    deadline = time.monotonic() + 120
    while not (path := began()):
        assert time.monotonic() < deadline and run.alive(), run.said()
    time.sleep(rng.random() * 0.004)
    os.kill(run.pids()[0], signal.SIGKILL)
    time.sleep(0.05)
    return path


@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=full)])
def test_kills_during_a_checkpoint_write(laptop, tmp_path, undisturbed, matrix, moments):
    folder, rng, within = tmp_path / "log", random.Random(0), 0
    for moment in range(moments):
        with Ranks(laptop, folder, "--checkpoint-every", "1", *["--resume", folder][:2 * moment]) as run:
            wait_for(run, r"(?m)^@ checkpoint \{")
            torn = kill_within(run, rng, lambda: next(folder.glob("*.part"), None))
            kill(run)
        names = {path.name for path in folder.iterdir()}
        within += torn.name in names or any(name.endswith(".part") or name.endswith(".pt")
                                            and name[:-3] + ".json" not in names for name in names)
        good, bad = checkpoints(folder)
        assert bad == [] and good
    goes_on(laptop, folder, undisturbed)
    assert within > 0
    matrix("SIGKILL", f"checkpoint write, {moments} times, {within} torn", good, "(what is torn has no JSON)")


@pytest.mark.parametrize("moments", [1, pytest.param(10, marks=full)])
def test_kills_during_a_log_append(laptop, tmp_path, undisturbed, matrix, moments):
    """A write of one line is whole or absent where only the process dies; a machine that dies may tear it."""
    folder, rng = tmp_path / "log", random.Random(1)
    for moment in range(moments):
        resumes = text(folder).count("\n@ resume {") + (moment > 0)
        with Ranks(laptop, folder, "--val-every", "1", *["--resume", folder][:2 * moment]) as run:
            wait_for(run, rf"(?s)(\n@ resume \{{.*){{{resumes}}}\nstep:")
            (path,), size = folder.glob("*.txt"), [len(text(folder))]
            kill_within(run, rng, lambda: path.stat().st_size > size[0])
            kill(run)
        last = path.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, rng.randrange(last + 1, path.stat().st_size))
    with Ranks(laptop, folder, "--val-every", "1", "--resume", folder) as run:
        assert run.wait() == [0, 0], run.said()
    cut = last_resume(folder)["cut_bytes"]
    losses, weights = outcome(folder)
    grid = {seed: [point for point in points if point[0] % 8 == 0] for seed, points in losses.items()}
    assert same((grid, weights), undisturbed) and cut > 0
    matrix("SIGKILL", f"log append, {moments} times", checkpoints(folder)[0], f"resume: cut_bytes {cut}")


########################################
#             Full disks               #
########################################


@pytest.mark.parametrize("what", ["log", "checkpoint"])
def test_the_disk_is_full(laptop, tmp_path, undisturbed, matrix, what):
    """Files of the limit's size cannot grow, with the errors and half-written data of a full disk."""
    folder = tmp_path / "log"
    with Ranks(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        (path,), size = folder.glob("*.txt"), next(folder.glob("*.pt")).stat().st_size - 5000
        assert size > path.stat().st_size + 50_000  # a limit that only the checkpoint reaches
        limit_files(run.pids()[0], path.stat().st_size + 60 if what == "log" else size)
        run.wait()
        said = ours(run.said())
    assert f"cannot write the {what} " in said[0] and f"--resume {folder}" in said[0]
    assert path.read_bytes().endswith(b"\n") and not list(folder.glob("*.part"))
    kept = checkpoints(folder)[0]
    assert len(kept) == 2
    goes_on(laptop, folder, undisturbed)
    matrix("disk full", f"{what} (RLIMIT_FSIZE)", kept, said[0])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 80 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk):
    with open(disk / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@full
@pytest.mark.parametrize("launcher", [Ranks, Torchrun])
@pytest.mark.parametrize("what", ["log", "checkpoint"])
def test_a_small_disk_is_full(laptop, small_disk, undisturbed, matrix, what, launcher):
    folder = small_disk / "log"
    every = ["--val-every", "1", "--checkpoint-every", "1000"] if what == "log" else ["--checkpoint-every", "1"]
    with launcher(laptop, folder, *every) as run:
        wait_for(run, r"(?m)^step:16/" if what == "log" else BEHIND_TWO)
        fill(small_disk)
        run.wait()
        kept = checkpoints(folder)[0]
        assert len(kept) == (0 if what == "log" else 2)
        (small_disk / "filler").unlink()
        said = ours(run.said())
    assert f"cannot write the {what} " in said[0] and "No space left" in said[0], said
    assert text(folder).endswith("\n")
    with Ranks(laptop, folder, "--resume", folder) as run:
        assert run.wait() == [0, 0], run.said()
    losses, weights = outcome(folder)
    grid = {seed: [point for point in points if point[0] % 8 == 0] for seed, points in losses.items()}
    assert same((grid, weights), undisturbed)
    matrix("disk full", f"{what} (tmpfs), {launcher.__name__.lower()}", kept, said[0])


def test_the_disk_is_full_while_downloading(hub, tmp_path, matrix):  # noqa: F811
    out = tmp_path / "fw"
    program = [sys.executable, ROOT / "data" / "cached_fineweb10B.py", "1", "--out", out]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(list(map(str, program)), env=env, capture_output=True, text=True, timeout=120,
                          preexec_fn=lambda: limit_files(0, 8000))  # a shard has 11,024 bytes
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr and "cached_fineweb10B.py: " in line
    assert not list(out.glob("*.bin"))  # no shard that is not whole
    done = fetch(hub, out)
    assert done.returncode == 0 and holds(out, hub, VAL, TRAIN1) and not list(out.glob("*.partial"))
    matrix("disk full", "download (RLIMIT_FSIZE)", "no shard", line)


########################################
#      Folders, checkpoints, shards    #
########################################


def test_a_read_only_folder(laptop, tmp_path, undisturbed, matrix):
    folder = tmp_path / "log"
    with Ranks(laptop, folder, obey_modes=True) as run:
        wait_for(run, BEHIND_TWO)
        folder.chmod(0o555)
        run.wait()
        said = ours(run.said())
    assert "cannot write the checkpoint" in said[0] and "Permission denied" in said[0]
    with Ranks(laptop, folder, "--resume", folder, obey_modes=True) as run:
        assert run.wait() == [1, 1]
        assert "cannot write the checkpoint" in ours(run.said())[0]
    folder.chmod(0o755)
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("read-only folder", "in training, at a resume", kept, said[0])


def flip(path):
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 16
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage, which, first", [
    (cut, "*16.pt", 8), (flip, "*16.pt", 8), pytest.param(cut, "*16.json", 8, marks=full),
    pytest.param(flip, "*16.json", 8, marks=full), pytest.param(Path.unlink, "*16.pt", 8, marks=full),
    pytest.param(Path.unlink, "*16.json", 8, marks=full), pytest.param(flip, "*.pt", 0, marks=full),
    pytest.param(cut, "*.json", 0, marks=full)])
def test_a_damaged_checkpoint(laptop, tmp_path, stopped, undisturbed, matrix, damage, which, first):
    folder = Path(shutil.copytree(stopped, tmp_path / "log"))
    for path in folder.glob(f"checkpoint_{which}"):
        damage(path)
    said = finish(laptop, folder)
    assert last_resume(folder)["step"] == first and same(outcome(folder), undisturbed)
    passed = [line for line in said if " is passed over: " in line]
    assert passed or (damage is Path.unlink and which == "*16.json")  # without its JSON it is no checkpoint
    what = {cut: "truncated", flip: "bit flip", Path.unlink: "deleted"}[damage]
    matrix(what, f"checkpoint_{which}", [first] * bool(first), (passed or ["(is no checkpoint)"])[0])


@pytest.mark.parametrize("damage, split", [(cut, "train"), (Path.unlink, "train"),
                                           pytest.param(cut, "val", marks=full),
                                           pytest.param(Path.unlink, "val", marks=full)])
def test_a_shard_changes_during_the_run(laptop, tmp_path, undisturbed, matrix, damage, split):
    data, folder = Path(shutil.copytree(laptop, tmp_path / "data")), tmp_path / "log"
    (path,) = data.glob(f"*_{split}_*.bin")
    with Ranks(data, folder) as run:
        wait_for(run, BEHIND_TWO)
        damage(path)
        run.wait()
        said = ours(run.said())
    words = {cut: "changed its size to", Path.unlink: "is gone during the run"}[damage]
    assert any(words in line and path.name in line for line in said), said
    with Ranks(data, folder, "--resume", folder) as run:
        assert run.wait() == [1, 1]
        assert len(ours(run.said())) == 1
    shutil.copy(laptop / path.name, path)
    kept = checkpoints(folder)[0]
    goes_on(data, folder, undisturbed)
    what = {cut: "shrunk", Path.unlink: "deleted"}[damage]
    matrix(f"shard {what}", path.name, kept, next(line for line in said if words in line))
