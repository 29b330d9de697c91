#!/usr/bin/env python3
"""Run the code that a log carries once more, and compare the losses: hashes show that a log agrees with
itself, this that its own code gives these losses. Whether that code is unaltered, its reader sees.

The sources are unpacked into a folder of their own, then their list, what differs from this checkout and
the command are shown. Nothing runs before you agree. What then runs is the log's code, with your rights:
read it.
"""
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "torch")

from speedrun import ROOT
from speedrun.experiments.replay import lines, outcome, replay, whole_run
from speedrun.log.folder import logs_in
from speedrun.log.reader import read_log
from speedrun.text import printable

EXAMPLE = """examples:
  python scripts/replay.py records/laptop/2026-11-23_aurora/*.txt.xz --seed 0
  python scripts/replay.py logs/20260131-120000_laptop_aurora/*.txt --yes
"""


def consent(file, yes: bool, shown: list[str]) -> None:
    """Show what will run. Returns if the person agrees; Refusal if not, or if nobody can be asked."""
    print("\n".join(shown), file=file, flush=True)
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refusal("nothing was run: there is no terminal to ask at; read what is shown above, add --yes")
    print("Run this code, with your rights, on this machine? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refusal("nothing was run")


def told(line: str) -> None:
    """A line that the log's code prints, as text."""
    print(printable(line.rstrip("\n")), file=sys.stderr, flush=True)


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
    run = whole_run(log)
    seeds = run.header["seeds"] if args.seed is None else [args.seed]
    if not set(seeds) <= set(log.series):
        raise Refusal(f"--seed {args.seed}: the log has {', '.join(map(str, log.series))}", code=2)
    log_dir = (args.log_dir or ROOT / "logs" / f"replay_{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    if logs_in(log_dir):
        raise Refusal(f"--log-dir {printable(log_dir)} holds a log already; name a new folder", code=2)
    again = replay(run, seeds, log_dir, args.data_dir.absolute(), on_line=told,
                   agree=partial(consent, sys.stderr if args.json else sys.stdout, args.yes))
    found = outcome(log, again, seeds)
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines(found)))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
