#!/usr/bin/env python3
"""Run the code that a log carries once more, and compare the losses: hashes show that a log agrees with
itself, only this shows that it is true.

The sources are unpacked into a folder of their own, then their list, what differs from this checkout and
the command are shown. Nothing runs before you agree. What then runs is the log's code, with your rights:
read it.
"""
import difflib
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import torch
except ImportError as missing:
    sys.exit(f"replay.py: {missing}; run scripts/setup.sh and then .venv/bin/python scripts/replay.py")

from scripts.verify import TOLERANCE
from speedrun import ROOT, launch
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.log.format import Log
from speedrun.log.header import misfits
from speedrun.log.reader import read_log
from speedrun.log.run import LoggedRun
from speedrun.text import printable
from speedrun.training.world import divisor
from speedrun.verify.header import SOURCE_PATH, here

EXAMPLE = """examples:
  python scripts/replay.py records/laptop/2026-11-23_aurora/*.txt.xz --seed 0
  python scripts/replay.py logs/20260131-120000_laptop_aurora/*.txt --yes
"""
MAX_FILES, MAX_BYTES, MAX_LINES = 200, 4 * 2**20, 20_000  # of all sources together
MAX_PATH = 120
SHOWN_LINES, SHOWN_COLUMNS = 120, 160  # of a file's diff

########################################
#              The sources             #
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
    if wrong := misfits(log.header):
        raise Refusal(f"{where}: its header is not complete: {printable(wrong[0])}; see scripts/verify.py")
    run = LoggedRun.of(log, 0)
    for wrong, what in ((log.status != "complete", f"its status is {log.status!r}"),
                        (run.command.wrong, f"its command cannot be read: {printable(run.command.wrong)}"),
                        (set(log.series) != set(run.header["seeds"]), "it lacks a seed that it declares")):
        if wrong:
            raise Refusal(f"{where}: {what}, so there is no outcome to compare; see scripts/verify.py")
    return run


def checked_sources(log: Log) -> dict[str, str]:
    """path -> text of the sources; Refusal for a path that does not plainly stay under its folder, or is
    another's (in upper or lower case, or as its folder), and for too many or too large ones."""
    seen: set[str] = set()
    rows = [(line, data.get("path")) for line, data in log.of_kind("source")]

    def refuse(what):
        where = f"{printable(log.path, 400)}:{line}"
        raise Refusal(f"{where}: the source '{printable(path, 60)}' {what}; nothing was unpacked")

    for line, path in rows:
        if not isinstance(path, str) or len(path) > MAX_PATH or not SOURCE_PATH.fullmatch(path):
            refuse("is no path of a Python file under the run's folder")
        if path.lower() in seen:
            refuse("stands twice")
        seen.add(path.lower())
    for line, path in rows:
        if any(str(parent) in seen for parent in Path(path.lower()).parents):
            refuse("lies in what another source calls a file")
    texts = log.sources.values()
    size, lines = sum(len(t.encode()) for t in texts), sum(t.count("\n") for t in texts)
    if len(rows) > MAX_FILES or size > MAX_BYTES or lines > MAX_LINES:
        raise Refusal(f"{printable(log.path, 400)}: {len(rows)} sources of {lines} lines and {size} bytes; "
                      f"{MAX_FILES}, {MAX_LINES} and {MAX_BYTES} are allowed; nothing was unpacked")
    if "train_gpt.py" not in log.sources:
        raise Refusal(f"{printable(log.path, 400)}: it carries no train_gpt.py, so there is nothing to run")
    return dict(log.sources)


def unpack(sources: dict[str, str], folder: Path) -> None:
    """Write each source under the new `folder`, which holds no file and no link that it did not make."""
    for path, text in sources.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(text.encode())


########################################
#          What is going to run        #
########################################


def diff(path: str, text: str) -> list[str]:
    """The unified diff from this checkout's file to the log's, each line plain text; [] where equal."""
    ours = here(path)
    if ours == text:
        return []
    # split at newlines alone: what else breaks a line on a screen is shown as an escape
    before, after = ((t or "").removesuffix("\n").split("\n") for t in (ours, text))
    found = difflib.unified_diff(before if ours else [], after if text else [],
                                 f"{path} (this checkout)" if ours is not None else "/dev/null",
                                 f"{path} (the log)", lineterm="")
    return [printable(line[:SHOWN_COLUMNS]) + (
        f" ... {len(line) - SHOWN_COLUMNS} more characters" if len(line) > SHOWN_COLUMNS else "")
        for line in found]


def shortened(rows: list[str], file: Path) -> list[str]:
    """A long diff without the lines taken out, for they could push what will run out of sight; then cut."""
    if len(rows) <= SHOWN_LINES:
        return rows
    kept = rows[:2] + [row for row in rows[2:] if not row.startswith("-")]
    return [*kept[:SHOWN_LINES], f"... not shown: {len(rows) - len(kept)} lines taken out and "
                                 f"{max(0, len(kept) - SHOWN_LINES)} more lines of this diff; read {file}"]


def processes(run: LoggedRun) -> int:
    """As many as the log's run had, or the largest part of them that this machine has devices for."""
    world, device = run.header["world_size"], run.header["hardware"]["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise Refusal(f"{printable(run.log.path, 400)} is of a run on CUDA (world size {world}), and this "
                      "torch sees no CUDA device; replay it where there is one")
    limit = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    return divisor(world, limit)


def training_args(run: LoggedRun, seeds: list[int]) -> list[str]:
    """What the log's command asks train_gpt.py for. Left out is what changes no loss: folders, --save,
    --wandb, --json."""
    device = "cuda" if run.header["hardware"]["device"] == "cuda" else "cpu"
    return list(run.command.training(track=run.track.name, seeds=seeds, device=device).words)


def show(run: LoggedRun, sources: dict[str, str], folder: Path, words: list[str], file) -> None:
    """The list of files, what differs from this checkout, and the command."""
    def say(line):
        print(line, file=file, flush=True)

    diffs = {path: diff(path, text) for path, text in sources.items()}
    say(f"{printable(run.log.path, 400)}: {printable(run.track.name)}, {printable(run.recipe.name)}, "
        f"{printable(run.header['started'], 40)}, on {printable(run.header['hardware']['name'])}")
    say(f"{len(sources)} files, unpacked in {folder}:")
    for path, text in sources.items():
        counts = Counter(line[0] for line in diffs[path][2:])
        change = f"differs: +{counts['+']} -{counts['-']}" if diffs[path] else "as in this checkout"
        say(f"  {path:<32} {text.count(chr(10)):5} lines  "
            f"{change if here(path) is not None else 'not in this checkout'}")
    for path, rows in diffs.items():
        if rows:
            say("\n".join(["", *shortened(rows, folder / path)]))
    seconds = sum(points[-1].train_time for points in run.log.series.values())
    say(f"\nthe log's command: {printable(run.header['command'], 10_000)}\n"
        f"its training took {seconds:.0f} s on its machine, {len(run.log.series)} seed(s) together")
    say(f"to be run in {folder}:\n  {printable(shlex.join(words), 20_000)}")


def consent(args) -> None:
    """Returns where the person agrees; Refusal where not, or where nobody can be asked."""
    if args.yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refusal("nothing was run: there is no terminal to ask at; read what stands above, add --yes")
    print("Run this code, with your rights, on this machine? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refusal("nothing was run")


########################################
#              The outcome             #
########################################


def replay(folder: Path, words: list[str], log_dir: Path) -> Log:
    """Run the command; the log that it leaves. Refusal where the run does not end well."""
    def on_line(line):
        print(printable(line.rstrip("\n")), file=sys.stderr, flush=True)

    code, why = launch.run(words, folder, on_line)
    logs = sorted(log_dir.glob("*.txt"))
    where = f"; its log is {logs[0]}" if logs else "; it left no log"
    if code or not logs:
        raise Refusal(f"the replay failed: {why}{where}")
    again = read_log(logs[0])
    if wrong := misfits(again.header):
        raise Refusal(f"the replay's header is not complete: {printable(wrong[0])}{where}")
    return again


def outcome(log: Log, again: Log, seeds: list[int]) -> dict:
    """The losses of both at each validation, and all that speaks against the log; plain JSON."""
    against, points = [f"the replay's log, line {line}: {what}" for line, what in again.problems], []
    changed = [path for path, text in again.sources.items() if log.sources.get(path) != text]
    against += [f"the replay loaded {printable(path, 60)}, which is not the log's" for path in changed]
    for name in ("track", "recipe", "data"):
        if again.header["sha256"][name] != log.header["sha256"][name]:
            against.append(f"the {name} of the replay is not the log's")
    start, _ = LoggedRun.of(log, 0).start  # a fork's log tells the rest alone
    for seed in seeds:
        old, new = ({p.step: p.val_loss for p in found.series.get(seed, []) if p.step >= start}
                    for found in (log, again))
        if old.keys() != new.keys():
            against.append(f"seed {seed}: the replay validated at other steps")
        for step in sorted(old.keys() & new.keys()):
            point = dict(seed=seed, step=step, log=old[step], replay=new[step],
                         difference=round(new[step] - old[step], 5))
            points.append(point)
            if not abs(point["difference"]) <= TOLERANCE:
                against.append(f"seed {seed}, step {step}: the log has loss {old[step]:.5f}, the replay "
                               f"{new[step]:.5f}")
    return dict(agrees=not against, tolerance=TOLERANCE, against=against, points=points,
                largest=max((abs(p["difference"]) for p in points), default=None))


def lines(found: dict) -> list[str]:
    """The outcome for a person."""
    out = [f"seed {p['seed']} step {p['step']:>6}: log {p['log']:.5f}, replay {p['replay']:.5f}, "
           f"difference {p['difference']:+.5f}" for p in found["points"]]
    if found["other_machine"]:
        out.append(f"another machine: {found['other_machine']}; machines of one kind keep {TOLERANCE} nats")
    where = f"the replay's log is {found['replay']}"
    if found["agrees"]:
        return [*out, f"agrees: {len(found['points'])} losses within {TOLERANCE} nats, the largest "
                      f"difference {found['largest']:.5f}; {where}"]
    return [*out, *found["against"], f"differs: more than {TOLERANCE} nats, or in what ran; {where}"]


########################################
#             Command line             #
########################################


@command
def main(argv: list[str]) -> int:
    """Show, ask, run, compare; the exit code is 0 where the replay agrees with the log."""
    parser = Parser(prog="replay.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("log", type=Path, metavar="LOG", help="a record log: .txt, .gz or .xz")
    add("--seed", type=int, metavar="S", help="only this one of its seeds")
    add("--yes", action="store_true", help="you have read the code and agree that it runs")
    add("--data-dir", type=Path, metavar="D", default=ROOT / "data",
        help="the folder of the shards (default: this checkout's data)")
    add("--log-dir", type=Path, metavar="D", help="for the replay's log (default: logs/replay_<time>)")
    add("--json", action="store_true", help="print one JSON object; the rest goes to stderr")
    args = parser.parse_args(argv)
    log = read_log(args.log)
    run, sources = whole_run(log), checked_sources(log)
    seeds = run.header["seeds"] if args.seed is None else [args.seed]
    if not set(seeds) <= set(log.series):
        raise Refusal(f"--seed {args.seed}: the log has {', '.join(map(str, log.series))}", code=2)
    log_dir = (args.log_dir or ROOT / "logs" / f"replay_{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if log_dir.exists() and any(log_dir.glob("*.txt")):
        raise Refusal(f"--log-dir {printable(log_dir)} holds a log already; name a new folder", code=2)
    with tempfile.TemporaryDirectory(prefix="replay_", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        unpack(sources, folder)
        words = launch.command_words(folder / "train_gpt.py", [
            *training_args(run, seeds), "--data-dir", args.data_dir.absolute(), "--log-dir", log_dir],
            processes(run))
        show(run, sources, folder, words, sys.stderr if args.json else sys.stdout)
        consent(args)
        again = replay(folder, words, log_dir)
    machines = [printable(found.header["hardware"]["name"]) for found in (log, again)]
    found = dict(log=str(log.path), replay=str(again.path), seeds=seeds, **outcome(log, again, seeds),
                 other_machine=None if machines[0] == machines[1] else " against ".join(machines))
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines(found)))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
