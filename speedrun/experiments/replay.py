"""A logged run, trained again: by the code that its log carries (scripts/replay.py), or by this checkout's
(scripts/verify.py --rerun). Do the losses agree?

Hashes show that a log agrees with itself; this shows that its own code gives these losses.
"""
import os
import shlex
import sys
import tempfile
from pathlib import Path

from speedrun import ROOT, launch
from speedrun.cli import Refusal
from speedrun.log.folder import logs_in
from speedrun.log.format import Log
from speedrun.log.header import schema_errors
from speedrun.log.reader import read_log
from speedrun.log.run import LoggedRun
from speedrun.text import printable
from speedrun.verify.header import here

from .sources import checked_sources, listing, unpack

TOLERANCE = 2e-3  # nats between two runs of one seed and code on CPUs of one kind, at every validation

########################################
#              The runs                #
########################################


def whole_run(log: Log) -> LoggedRun:
    """The run of a log that is complete; Refusal where there is nothing to replay."""
    where = printable(log.path, 400)
    if log.foreign is not None:
        raise Refusal(f"{where} is no log of this project, and only those can be replayed: give a log that "
                      "train_gpt.py wrote")
    if log.problems:
        line, what = log.problems[0]
        raise Refusal(f"{where}:{line}: {what}; only a log that is whole can be replayed: "
                      "see what `scripts/verify.py` says of it")
    if wrong := schema_errors(log.header):
        raise Refusal(f"{where}: its header is not complete: {printable(wrong[0])}; see scripts/verify.py")
    run = LoggedRun.of(log, 0)
    for wrong, what in ((log.status != "complete", f"its status is {log.status!r}"),
                        (run.command.wrong, f"its command cannot be read: {printable(run.command.wrong)}"),
                        (set(log.series) != set(run.header["seeds"]), "it lacks a seed that it declares")):
        if wrong:
            raise Refusal(f"{where}: {what}, so there is no outcome to compare; see scripts/verify.py")
    return run


def replay(run: LoggedRun, seeds: list[int], log_dir: Path, data_dir: Path | None = None,
           sources: str = "log", agree=lambda lines: None, on_line=lambda line: None) -> Log:
    """Train these seeds of a logged run again; the log of that, which is in `log_dir`.

    sources: "log", the code that the log carries, unpacked into a folder of its own and run once
    `agree(lines)` has returned: it gets the list of files, what differs from this checkout, and the command.
    Or "checkout", this checkout's code, on the CPU. on_line: gets each line that the run prints.
    Refusal where the log's code cannot be unpacked, its devices are not here, or the run fails.
    """
    own = sources == "log"
    cuda = own and run.header["hardware"]["device"] == "cuda"
    # All that may change a loss. Left out is what does not: folders, --save, --wandb, --json.
    command = run.command.training(track=run.track.name, seeds=seeds, device="cuda" if cuda else "cpu")
    words = command.plus(data_dir=data_dir, log_dir=log_dir).words
    if not own:
        words = launch.command_words(ROOT / "train_gpt.py", words)
        return _train(words, log_dir, log_dir, on_line, f"{printable(run.log.path, 400)}: the rerun")
    carried = checked_sources(run.log)
    with tempfile.TemporaryDirectory(prefix="replay_", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        unpack(carried, folder)
        words = launch.command_words(folder / "train_gpt.py", words, processes(run))
        agree(shown(run, carried, folder, words))
        return _train(words, folder, log_dir, on_line, "the replay")


def processes(run: LoggedRun) -> int:
    """As many as the log's run had, or the largest part of them that this machine has devices for."""
    import torch  # here alone: who verifies needs no torch

    from speedrun.training.world import divisor
    world, device = run.header["world_size"], run.header["hardware"]["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal(f"{printable(run.log.path, 400)} is of a run on CUDA (world size {world}), and this "
                      "torch sees no CUDA device; replay it where there is one")
    limit = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    return divisor(world, limit)


def shown(run: LoggedRun, carried: dict[str, str], folder: Path, words: list[str]) -> list[str]:
    """For the person who is asked: the list of files, what differs from this checkout, and the command."""
    seconds = sum(points[-1].train_time for points in run.log.series.values())
    return [f"{printable(run.log.path, 400)}: {printable(run.track.name)}, {printable(run.recipe.name)}, "
            f"{printable(run.header['started'], 40)}, on {printable(run.header['hardware']['name'])}",
            *listing(carried, folder),
            f"\nthe log's command: {printable(run.header['command'], 10_000)}",
            f"its training took {seconds:.0f} s on its machine, {len(run.log.series)} seed(s) together",
            f"to be run in {folder}:\n  {printable(shlex.join(words), 20_000)}"]


def _train(words: list[str], folder: Path, log_dir: Path, on_line, what: str) -> Log:
    code, why = launch.run(words, folder, on_line)
    logs = logs_in(log_dir)
    where = f"its log is {logs[0]}" if logs else "it left no log"
    if code or not logs:
        raise Refusal(f"{what} failed: {why}; {where}")
    again = read_log(logs[0])
    if wrong := schema_errors(again.header):
        raise Refusal(f"{what} left a header that is not complete: {printable(wrong[0])}; {where}")
    return again


########################################
#              The outcome             #
########################################


def validations(log: Log, again: Log, seed: int) -> tuple[dict, dict]:
    """step -> Point of both, from the step at which the log starts (a fork's log has the rest alone)."""
    start, _ = LoggedRun.of(log, 0).start
    old, new = ({point.step: point for point in found.series.get(seed, []) if point.step >= start}
                for found in (log, again))
    return old, new


def outcome(log: Log, again: Log, seeds: list[int]) -> dict:
    """The losses of both at each validation, and all that speaks against the log; plain JSON."""
    against, points = [f"the replay's log, line {line}: {what}" for line, what in again.problems], []
    changed = [path for path, text in again.sources.items() if log.sources.get(path) != text]
    against += [f"the replay loaded {printable(path, 60)}, which is not the log's" for path in changed]
    for name in ("track", "recipe", "data"):
        if again.header["sha256"][name] != log.header["sha256"][name]:
            against.append(f"the {name} of the replay is not the log's")
    for seed in seeds:
        old, new = validations(log, again, seed)
        if old.keys() != new.keys():
            against.append(f"seed {seed}: the replay validated at other steps")
        for step in sorted(old.keys() & new.keys()):
            a, b = old[step].val_loss, new[step].val_loss
            points.append(dict(seed=seed, step=step, log=a, replay=b, difference=round(b - a, 5)))
            if not abs(points[-1]["difference"]) <= TOLERANCE:
                against.append(f"seed {seed}, step {step}: the log has loss {a:.5f}, the replay {b:.5f}")
    machines = [printable(found.header["hardware"]["name"]) for found in (log, again)]
    return dict(log=str(log.path), replay=str(again.path), seeds=seeds, agrees=not against,
                tolerance=TOLERANCE, against=against, points=points,
                largest=max((abs(p["difference"]) for p in points), default=None),
                other_machine=None if machines[0] == machines[1] else " against ".join(machines))


def lines(found: dict) -> list[str]:
    """The outcome for a person."""
    out = [f"seed {p['seed']} step {p['step']:>6}: log {p['log']:.5f}, replay {p['replay']:.5f}, "
           f"difference {p['difference']:+.5f}" for p in found["points"]]
    if found["other_machine"]:
        out.append(f"another machine: {found['other_machine']}; "
                   f"machines of one kind agree to {TOLERANCE} nats")
    where = f"the replay's log is {found['replay']}"
    if found["agrees"]:
        return [*out, f"agrees: {len(found['points'])} losses within {TOLERANCE} nats, the largest "
                      f"difference {found['largest']:.5f}; {where}"]
    return [*out, *found["against"], f"differs: more than {TOLERANCE} nats, or in what ran; {where}"]


########################################
#          By this checkout            #
########################################


def rerun(path: Path) -> list[tuple[int, str]]:
    """Train the first seed of a `laptop` log again by this checkout's code: (line, what) of the first loss
    that does not agree, [] where all do. Refusal for another track, another code, and a run that fails."""
    log, where = read_log(path), printable(path, 400)
    run = LoggedRun.of(log, 0)
    if run.track.name != "laptop":
        raise Refusal(f"{where}: --rerun trains on the CPU, so it takes logs of the laptop track, not "
                      f"{printable(run.track.name, 40)}; see scripts/replay.py for the others")
    for name, text in log.sources.items():
        if here(name) != text:
            raise Refusal(f"{where}: {name} in this log is not this checkout's, so a rerun would train "
                          f"other code; run `python scripts/replay.py {shlex.quote(where)}`")
    seed = run.header["seeds"][0]
    print(f"training seed {seed} of {where} again", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            again = replay(run, [seed], Path(folder), sources="checkout")
    except Refusal as refusal:  # which says last where the log is: it is gone
        raise Refusal(str(refusal).rsplit("; ", 1)[0], code=refusal.code) from None
    old, new = validations(log, again, seed)
    for step, point in old.items():
        if step not in new:
            return [(point.line, f"seed {seed}, step {step}: the rerun has no validation here")]
        a, b = point.val_loss, new[step].val_loss
        if not abs(a - b) <= TOLERANCE:
            return [(point.line, f"seed {seed}, step {step}: the log has loss {a:.5f}, the rerun {b:.5f}; "
                                 f"{TOLERANCE} is allowed")]
    return []
