"""The fault matrix, continued: full disks, read-only folders, damaged checkpoints, shards that change."""
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import TRAIN1, VAL, fetch, holds, hub  # noqa: F401
from tests.support.ranks import (
    BEHIND_TWO,
    ROOT,
    Ranks,
    Torchrun,
    checkpoints,
    finish,
    full,
    goes_on,
    last_resume,
    limit_files,
    ours,
    outcome,
    same,
    text,
    wait_for,
)

pytestmark = [pytest.mark.process,
              pytest.mark.skipif(sys.platform != "linux", reason="prlimit(2) and capset(2) are Linux's")]

########################################
#             Full disks               #
########################################


@pytest.mark.parametrize("what", ["log", pytest.param("checkpoint", marks=full)])
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
    every = dict(log=["--val-every", "1", "--checkpoint-every", "1000"],
                 checkpoint=["--checkpoint-every", "1"])
    with launcher(laptop, folder, *every[what]) as run:
        wait_for(run, r"(?m)^step:12/" if what == "log" else BEHIND_TWO)
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
    grid = {seed: [point for point in points if point[0] % 6 == 0] for seed, points in losses.items()}
    assert same((grid, weights), undisturbed)
    matrix("disk full", f"{what} (tmpfs), {launcher.__name__.lower()}", kept, said[0])


def test_the_disk_is_full_while_downloading(hub, tmp_path, matrix):  # noqa: F811
    out = tmp_path / "fw"
    program = [sys.executable, ROOT / "data" / "cached_fineweb10B.py", "1", "--out", out]
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(list(map(str, program)), env=env, capture_output=True, text=True, timeout=120,
                          preexec_fn=lambda: limit_files(0, 8000))  # a shard has 11,024 bytes
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line.startswith("cached_fineweb10B.py: File too large: ") and f"{VAL}." in line
    assert not list(out.glob("*.bin"))  # no shard that is not whole
    done = fetch(hub, out)
    assert done.returncode == 0 and holds(out, hub, VAL, TRAIN1) and not list(out.glob("*.partial"))
    matrix("disk full", "download (RLIMIT_FSIZE)", "no shard", line, digits=False)


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
    folder.chmod(0o755)
    kept = checkpoints(folder)[0]
    goes_on(laptop, folder, undisturbed)
    matrix("read-only folder", "in training", kept, said[0])


def flip(path):
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 16
    path.write_bytes(data)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage, which", [
    (cut, "newest.pt"), (flip, "newest.pt"), *(pytest.param(*case, marks=full) for case in (
        (cut, "newest.json"), (flip, "newest.json"), (Path.unlink, "newest.pt"), (Path.unlink, "newest.json"),
        (flip, "all.pt"), (cut, "all.json")))])
def test_a_damaged_checkpoint(laptop, tmp_path, stopped, undisturbed, matrix, damage, which):
    folder = Path(shutil.copytree(stopped, tmp_path / "log"))
    older, newest = checkpoints(folder)[0]
    name, kind = which.split(".")
    for path in folder.glob(f"checkpoint_*{newest if name == 'newest' else ''}.{kind}"):
        damage(path)
    said = finish(laptop, folder)
    first = older if name == "newest" else 0
    assert last_resume(folder)["step"] == first and same(outcome(folder), undisturbed)
    passed = [line for line in said if " is passed over: " in line]
    assert passed or (damage is Path.unlink and kind == "json")  # without its JSON it is no checkpoint
    what = {cut: "truncated", flip: "bit flip", Path.unlink: "deleted"}[damage]
    kept = [first] if first else []
    matrix(what, f"checkpoint, {which}", kept, (passed or ["(is no checkpoint)"])[0])


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
    shutil.copy(laptop / path.name, path)
    kept = checkpoints(folder)[0]
    goes_on(data, folder, undisturbed)
    what = {cut: "shrunk", Path.unlink: "deleted"}[damage]
    matrix(f"shard {what}", path.name, kept, next(line for line in said if words in line))
