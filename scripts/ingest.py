#!/usr/bin/env python3
"""Read the public logs of modded-nanogpt's track 3 from a clone of it: records/reference/track3.json.

Figures only, each computed from the logs: runs, mean loss at the claimed step, losses near the target, step
time. Each deviation of a row's claim from its logs is printed.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy")

from speedrun import ROOT
from speedrun.board import track3
from speedrun.cli import Parser, command, print_json

EXAMPLE = """example:
  git clone https://github.com/KellerJordan/modded-nanogpt
  python scripts/ingest.py modded-nanogpt
"""


@command
def main(argv: list[str]) -> int:
    """Write the JSON; the exit code."""
    parser = Parser(prog="ingest.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("clone", type=Path, help="the folder of a git clone, with its files")
    parser.add_argument("--out", type=Path, default=ROOT / "records/reference/track3.json",
                        help="default: records/reference/track3.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    found = track3.ingest(args.clone)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(track3.to_text(found))
    deviating = [row for row in found["rows"] if row["deviations"]]
    runs = sum(row["n"] for row in found["rows"])
    if args.json:
        print_json(dict(out=str(args.out), commit=found["commit"], rows=len(found["rows"]), runs=runs,
                        deviations={row["row"]: row["deviations"] for row in deviating}))
        return 0
    for row in deviating:
        print(f"row {row['row']}: {'; '.join(row['deviations'])}")
    print(f"{args.out}: {len(found['rows'])} rows, {runs} runs of commit {found['commit'][:10]}; "
          f"{len(deviating)} rows deviate from their logs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
