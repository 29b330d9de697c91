#!/usr/bin/env python3
"""Time scripts/leaderboard.py on many made-up records, start of Python included."""
import datetime
import json
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from tests.support import clone
from tests.support.made_logs import challenged, make_log, parts, rechain

EXAMPLE = """example:
  python tests/bench/bench_leaderboard.py --records 500
"""
RECIPES = ("aurora", "muon")
ASK = """import sys; from pathlib import Path; from speedrun.verify import history
history.ROOT = Path(sys.argv[1])  # the clone that made-up logs say they ran in
from scripts import leaderboard; sys.exit(leaderboard.main(["--json", "--records", sys.argv[2]]))
"""


def make_records(root: Path, count: int) -> None:
    """Records of five seeds on `laptop`, each a day after the other, no two with the same losses."""
    logs = {}
    for recipe in RECIPES:
        path = make_log(root / f"{recipe}.txt", f"--recipe {recipe} --seeds 0 1 2 3 4")
        logs[recipe] = path.read_text()
        path.unlink()
    for i in range(count):
        recipe = RECIPES[i % len(RECIPES)]
        pieces = parts(logs[recipe])
        for piece in pieces:
            for step, digits in (("25", i % 100), ("50", i // 100)):  # far from the target
                if piece[0].startswith(f"step:{step}/"):
                    before, _, after = piece[0].partition(" train_time")
                    piece[0] = f"{before[:-2]}{digits:02d} train_time{after}"
        day = datetime.date(2027, 1, 15) + datetime.timedelta(days=i)
        folder = root / "laptop" / f"{day}_{recipe}"
        folder.mkdir(parents=True)
        (folder / "log.txt.xz").write_bytes(lzma.compress(rechain(pieces).encode(), preset=1))
        challenged(folder)


@command
def main(argv: list[str]) -> int:
    """Print the seconds; the exit code."""
    parser = Parser(prog="bench_leaderboard.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--records", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if not 0 < args.records <= 10_000:
        raise Refusal("give --records from 1 to 10000", code=2)
    with tempfile.TemporaryDirectory() as folder:
        make_records(Path(folder), args.records)
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", ASK, clone.clone(), folder], cwd=ROOT,
                              capture_output=True, text=True)
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or json.loads(done.stdout)["left_out"]:
        raise Refusal("a made-up record does not stand; the figure would mean nothing")
    found = dict(records=args.records, seconds=round(seconds, 2),
                 cpu_seconds=round(used.ru_utime + used.ru_stime, 2))
    print_json(found) if args.json else print(f"a board of {args.records} records: {seconds:.1f} s "
                                              f"({found['cpu_seconds']:.1f} s of processor time)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
