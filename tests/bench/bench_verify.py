#!/usr/bin/env python3
"""Time scripts/verify.py on many made-up logs, start of Python included."""
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from tests.support import clone
from tests.support.made_logs import make_log

EXAMPLE = """example:
  python tests/bench/bench_verify.py --logs 1000 --lines 3000
"""


@command
def main(argv: list[str]) -> int:
    """Print the seconds; the exit code."""
    parser = Parser(prog="bench_verify.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--logs", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--lines", type=int, default=3000, help="of each, at least (default: 3000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.logs < 1 or not 0 < args.lines <= 30_000:
        raise Refusal("give --logs of at least 1, and --lines from 1 to 30000", code=2)
    with tempfile.TemporaryDirectory() as folder:
        first, seeds, lines = Path(folder) / "0.txt", 0, 0
        while lines < args.lines:  # a seed has 19 lines, the sources are as many as they are
            seeds += 1 + max(0, args.lines - lines) // 19 * (lines > 0)
            first.unlink(missing_ok=True)
            lines = make_log(first, f"--seeds {' '.join(map(str, range(seeds)))}").read_text().count("\n")
        paths = [first, *(Path(folder) / f"{i}.txt" for i in range(1, args.logs))]
        for path in paths[1:]:
            shutil.copy(first, path)
        started = time.perf_counter()
        words = [sys.executable, ROOT / "scripts/verify.py", "--history", clone.clone(), *paths]
        done = subprocess.run(words, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise Refusal("a made-up log does not stand; the figure would mean nothing")
    found = dict(logs=args.logs, lines=lines, seeds=seeds, seconds=round(seconds, 2))
    print_json(found) if args.json else print(f"{args.logs} logs of {lines} lines: {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
