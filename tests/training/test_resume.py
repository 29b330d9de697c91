"""A run that stops goes on, with the digits of one that never stopped: real processes, signals, files."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train_gpt
from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.training import checkpoint, resume
from speedrun.verify.verdict import judge_record
from tests.support.made_logs import make_log
from tests.support.ranks import Trainer

pytestmark = pytest.mark.process

SMALL = ["--track", "laptop", "--device", "cpu", "--allow-custom", "--track.val_tokens", "4096",
         "--track.val_every", "10", "--track.tail", "0", "--track.model.num_layers", "1",
         "--track.tokens_per_step", "1024",
         "--steps", "40", "--checkpoint-every", "10", "--recipe", "muon"]


def start(laptop, folder, *args, ranks=1, restarts=0):
    """The trainer as a process (under torchrun where ranks > 1), in a session of its own."""
    words = [*SMALL, "--data-dir", laptop, "--log-dir", folder, *args]
    if ranks == 1:
        return Trainer(words, folder.parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
               f"--max-restarts={restarts}", ROOT / "train_gpt.py", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), text=True, stdout=subprocess.PIPE, env=env,
                            stderr=subprocess.PIPE, start_new_session=True, cwd=folder.parent)


def finish(process, code=0, seconds=120):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err[-3000:]
    return out, err


def resumed(laptop, folder, *args, ranks=1, code=0):
    return finish(start(laptop, folder, "--resume", folder, *args, ranks=ranks), code)


def text(folder):
    return "".join(path.read_text(errors="replace") for path in folder.glob("*.txt"))


def wait_for(process, folder, pattern, seconds=90):
    """Until the log matches."""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, text(folder)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


def digits(folder):
    """seed -> [(step, loss)]; the log must be whole."""
    (path,) = folder.glob("*.txt")
    log = read_log(path)
    assert log.problems == [] and log.status == "complete"
    return {seed: [(p.step, p.val_loss) for p in points] for seed, points in log.series.items()}


def workers(process):
    """The process ids of a launcher's workers, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended in between
            continue
        ranks = [int(word[5:]) for word in environment if word.startswith(b"RANK=")]
        if parent == process.pid and ranks:
            found[ranks[0]] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


@pytest.fixture(scope="module")
def undisturbed(laptop, tmp_path_factory):
    """ranks -> the digits of a run that nothing stopped."""
    found = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp("undisturbed") / "log"
        finish(start(laptop, folder, ranks=ranks))
        found[ranks] = digits(folder)
    return found


def test_a_terminated_run_goes_on_with_the_same_digits(laptop, tmp_path, undisturbed):
    process = start(laptop, tmp_path / "log")
    wait_for(process, tmp_path / "log", r"@ checkpoint .*\"step\": 10")
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, code=143)
    assert err.count("\n") == 1 and f"--resume {tmp_path / 'log'}\n" in err
    (path,) = (tmp_path / "log").glob("*.txt")
    assert read_log(path).status == "interrupted"
    other = tmp_path / "other"
    err = resumed(laptop, tmp_path / "log", "--log-dir", other, code=2)[1]
    assert err.count("\n") == 1 and "leave --log-dir out" in err and not other.exists()
    out = resumed(laptop, tmp_path / "log")[0]
    (event,) = [data for _, kind, data in read_log(path).events if kind == "resume"]
    assert f"resumes seed 0 from step {event['step']}\n" in out
    assert digits(tmp_path / "log") == undisturbed[1]
    log = read_log(path)
    kinds = [kind for _, kind, _ in log.events if kind in ("seed", "end", "resume", "outcome")]
    assert kinds == ["seed", "end", "resume", "outcome", "end"]
    err = resumed(laptop, tmp_path / "log", code=1)[1]
    assert "complete" in err and err.count("\n") == 1


def test_a_killed_rank_is_restarted_by_torchrun_and_completes(laptop, tmp_path, undisturbed):
    folder = tmp_path / "log"
    process = start(laptop, folder, ranks=2, restarts=3)
    wait_for(process, folder, r"@ checkpoint .*\"step\": 10")
    os.kill(workers(process)[1], signal.SIGKILL)
    finish(process)
    assert digits(folder) == undisturbed[2]
    assert "@ resume" in text(folder)


def test_a_restart_finds_its_own_folder_by_the_run_id(tmp_path, monkeypatch):
    """Not that of a former run, complete, whose torchrun was given the same id."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for name, status in (("20270115-a", "failed"), ("20270116-b", "complete")):
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        resume.mark(folder)
        make_log(folder / "log.txt", status=status)
    assert resume.folder_of_restart(tmp_path, None) is None  # a first start, not a restart
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resume.folder_of_restart(tmp_path, None) == tmp_path / "logs" / "20270115-a"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "2")
    assert resume.folder_of_restart(tmp_path, None) is None


def test_no_worker_outlives_its_launcher(laptop, tmp_path, undisturbed):
    folder = tmp_path / "log"
    process = start(laptop, folder, ranks=2)
    wait_for(process, folder, r"@ checkpoint .*\"step\": 10")
    left = workers(process)
    assert len(left) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    resumed(laptop, folder, ranks=2)
    assert digits(folder) == undisturbed[2]


@pytest.mark.faults
def test_a_run_goes_on_at_other_world_sizes(laptop, tmp_path, undisturbed):
    """1 -> 2 -> 4 -> 1: each goes on from a checkpoint that the one before it wrote."""
    folder = tmp_path / "log"
    for ranks, behind in ((1, 10), (2, 20), (4, 30)):
        process = start(laptop, folder, *(["--resume", folder] if ranks > 1 else []), ranks=ranks)
        wait_for(process, folder, rf"@ checkpoint .*\"step\": {behind}\b")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    resumed(laptop, folder)
    (path,) = folder.glob("*.txt")
    ends = [(data["step"], data["world_size"]) for _, kind, data in read_log(path).events if kind == "resume"]
    assert [size for _, size in ends] == [2, 4, 1]
    assert all(step >= behind for (step, _), behind in zip(ends, (10, 20, 30), strict=True)), ends
    for (step, loss), (other, expected) in zip(digits(folder)[0], undisturbed[1][0], strict=True):
        assert step == other and abs(loss - expected) < 2e-3


def stopped(laptop, folder):
    """A run stopped behind two checkpoints."""
    process = start(laptop, folder)
    wait_for(process, folder, r"@ checkpoint .*\"step\": 20")
    process.kill()
    process.communicate()


@pytest.mark.faults
def test_every_kind_of_damage_is_seen(laptop, tmp_path):
    folder = tmp_path / "log"
    stopped(laptop, folder)
    path = checkpoint.names(folder)[0]
    good = {p: p.read_bytes() for p in (path, path.with_suffix(".pt"))}
    about, tensors = checkpoint.load(path)
    assert about["step"] == 20 and isinstance(tensors["model"]["embed.weight"], torch.Tensor)
    rng = random.Random(0)
    for p, data in good.items():
        for damage in ("flip", "cut", "empty", "gone"):
            for _ in range(3):
                at = rng.randrange(len(data))
                if damage == "gone":
                    p.unlink(missing_ok=True)
                else:
                    p.write_bytes({"flip": data[:at] + bytes([data[at] ^ 4]) + data[at + 1:],
                                   "cut": data[:at], "empty": b""}[damage])
                with pytest.raises(ValueError):
                    checkpoint.load(path)
        p.write_bytes(data)
    checkpoint.load(path)


@pytest.mark.parametrize("args, word", [
    (["--recipe", "aurora"], "recipe.name: muon+steps=40 there"),
    pytest.param(*(["--recipe.lr", "0.01"], "recipe.lr: 0.02 there, 0.01 here"), marks=pytest.mark.long),
    pytest.param(*(["--track.val_every", "20"], "track.val_every: 10 there, 20 here"),
                 marks=pytest.mark.long),
    pytest.param(*(["--seeds", "0", "1"], "seeds: [0] there, [0, 1] here"), marks=pytest.mark.long),
])
def test_another_run_is_refused_with_the_difference(laptop, tmp_path_factory, args, word, _stopped={}):
    if not _stopped:
        _stopped["folder"] = tmp_path_factory.mktemp("stopped") / "log"
        stopped(laptop, _stopped["folder"])
    err = resumed(laptop, _stopped["folder"], *args, code=1)[1]
    assert word in err and err.count("\n") == 1
    for flag in ("--val-every", "3"), ("--fast",):
        err = resumed(laptop, _stopped["folder"], *flag, code=2)[1]
        assert f"{flag[0]} cannot change" in err and err.count("\n") == 1


@pytest.mark.faults
def test_other_code_is_refused(laptop, tmp_path):
    folder = tmp_path / "log"
    stopped(laptop, folder)
    (path,) = folder.glob("*.txt")
    log = read_log(path)
    header = {**log.header}
    (tmp_path / "root").mkdir()
    for name, source in log.sources.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source + ("# changed\n" if name == "optimizers/muon.py" else ""))
    with pytest.raises(checkpoint.Refusal, match="another run: optimizers/muon.py; use"):
        resume.resume(folder, tmp_path / "root", header)


@pytest.mark.faults
def test_a_folder_that_is_none_is_named(tmp_path, capsys):
    for path, words in ((make_log(tmp_path / "log.txt"), "is a file; name the folder"),
                        (tmp_path / "none", "there is no such folder")):
        assert train_gpt.main(["--resume", path]) == 2
        assert words in capsys.readouterr().err


def test_folders_that_cannot_be_resumed(laptop, tmp_path):
    for prepare, word in ((lambda: None, "holds 0 logs"),
                          (lambda: (tmp_path / "a.txt").write_text("hello\n"), "header")):
        prepare()
        err = resumed(laptop, tmp_path, code=1 if word == "header" else 2)[1]
        assert word in err and err.count("\n") == 1


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path):
    tensors = {"model": {"w": torch.zeros(1000)}}
    saved = checkpoint.save(tmp_path, 0, dict(step=10, seed=0, seconds=1.0), tensors)
    assert saved == "checkpoint_000_0000010"
    import resource
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(checkpoint.Refusal, match="cannot write the checkpoint.*free space.*--resume"):
            checkpoint.save(tmp_path, 0, dict(step=20, seed=0, seconds=1.0), tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{saved}.json", f"{saved}.pt"]
    assert checkpoint.load(tmp_path / "checkpoint_000_0000010.json")[0]["step"] == 10
    assert json.loads((tmp_path / "checkpoint_000_0000010.json").read_text())["bytes"] > 4000


def test_a_resumed_log_stands_and_makes_no_claim_about_time(laptop, tmp_path, undisturbed):
    folder = tmp_path / "log"
    process = start(laptop, folder)
    wait_for(process, folder, r"@ checkpoint .*\"step\": 20")
    process.send_signal(signal.SIGINT)
    finish(process, code=130)
    resumed(laptop, folder)
    (path,) = folder.glob("*.txt")
    verdict = judge_record(folder)  # checkpoints and the lock beside the log are the trainer's own
    assert verdict.failures == [] and verdict.claim["no_time"] == "resumed runs"
    for more in (), ("--dry-run",):
        assert "that run is complete" in resumed(laptop, folder, *more, code=1)[1]


def test_an_older_checkpoint_of_a_higher_step_is_pruned_first(tmp_path):
    for at, step in enumerate((1250, 1500, 250)):
        name = checkpoint.save(tmp_path, 0, dict(step=step, seed=0, seconds=1.0), {})
        os.utime(tmp_path / f"{name}.json", (at, at))
    kept = ["checkpoint_000_0000250", "checkpoint_000_0001500"]
    assert sorted(p.stem for p in tmp_path.glob("*.pt")) == kept


def test_weights_are_written_whole_or_not_at_all(tmp_path):
    import resource
    model, path = torch.nn.Linear(100, 100), tmp_path / "weights_seed0.pt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(checkpoint.Refusal, match="cannot write the weights.*free space"):
            checkpoint.save_weights(path, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []
    checkpoint.save_weights(path, model)
    model.load_state_dict(torch.load(path, weights_only=True))


def test_the_arguments_of_a_resumed_run_decide_what_is_needed(tmp_path):
    make_log(tmp_path / "log.txt", "--track laptop --recipe muon --steps 50", status="interrupted")
    plan = resume.plan_of(train_gpt.parse, ["--resume", str(tmp_path), "--device", "cpu"])
    assert (plan.track.name, plan.recipe.name, plan.recipe.steps) == ("laptop", "muon+steps=50", 50)


def test_a_folder_that_holds_a_run_takes_no_other(laptop, tmp_path, capsys):
    make_log(tmp_path / "log.txt", status="interrupted")
    words = ["--track", "laptop", "--device", "cpu", "--data-dir", str(laptop), "--log-dir", str(tmp_path)]
    assert train_gpt.main(words) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("*.txt")] == ["log.txt"]


def test_without_a_checkpoint_the_clock_goes_on_from_the_log(tmp_path):
    path = make_log(tmp_path / "log.txt", "--track laptop --recipe muon", status="interrupted")
    lines = path.read_text().splitlines(keepends=True)
    stop = next(i for i, line in enumerate(lines) if line.startswith("step:100/"))
    path.write_text("".join(lines[:stop + 1]))
    log = read_log(path)
    start, _ = resume.resume(tmp_path, train_gpt.ROOT, log.header)
    assert (start.step, start.tensors) == (0, None)
    assert start.seconds == log.series[0][-1].train_time > 0
