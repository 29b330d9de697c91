#!/usr/bin/env python3
"""Compare the recipes of record logs: a table, a picture and one HTML page that needs nothing but itself.

Logs of one track are grouped by recipe; recipes are compared with the first log's, paired by seed where
both have it. The page holds loss by step and by seconds, the target near by, steps and seconds to it with
their intervals, leverage and dead neurons where the logs have them, hyperparameters, machines and code.
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "matplotlib")

from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.report.comparison import read_comparison
from speedrun.report.page import page
from speedrun.report.picture import draw
from speedrun.report.table import markdown

EXAMPLE = """example:
  python scripts/report.py records/laptop/*_muon records/laptop/*_aurora --out /tmp/report
"""


@command
def main(argv: list[str]) -> int:
    """Write table.md, summary.json, loss.png and report.html into --out; the exit code."""
    parser = Parser(prog="report.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG",
                        help="a log or a record folder; the first one's recipe is the reference")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder")
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise Refusal(f"--out {args.out} is a file; name a folder", code=2)
    comparison = read_comparison(args.logs)
    found = comparison.found
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "table.md").write_text(markdown(found), encoding="utf-8")
    (args.out / "report.html").write_text(page(comparison), encoding="utf-8")
    draw(comparison, args.out / "loss.png")
    if args.json:
        print_json(found)
    else:
        print(f"{markdown(found)}\nwritten: {args.out / 'report.html'}, loss.png, table.md and summary.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
