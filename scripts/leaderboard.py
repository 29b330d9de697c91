#!/usr/bin/env python3
"""Write the board, records/README.md, from the record folders records/TRACK/YYYY-MM-DD_RECIPE.

Every folder is verified first. One that does not stand is listed nowhere, named on stderr, and makes the
exit code 1. A record that ends above its track's target is listed below those that reach it. Runs of a
custom track, and of recipes overridden on the command line, are on no board.
"""
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy")

from speedrun import ROOT
from speedrun.board.others import read_others
from speedrun.board.page import page
from speedrun.board.standings import read_board, standings
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.stats import words
from speedrun.text import printable

EXAMPLE = """examples:
  python scripts/leaderboard.py
  python scripts/leaderboard.py --check
"""


@command
def main(argv: list[str]) -> int:
    """Write or check the page; the exit code."""
    parser = Parser(prog="leaderboard.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 if the page would change")
    parser.add_argument("--records", type=Path, default=ROOT / "records", metavar="DIR",
                        help="the folder of the records (default: this checkout's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if not args.records.is_dir():
        raise Refusal(f"{printable(args.records)} is no folder; name the one that holds TRACK/DATE_RECIPE",
                      code=2)
    board, path = read_board(args.records), args.records / "README.md"
    tracks = standings(board.entries)
    text = page(tracks, read_others(args.records / "reference/track3.json"))
    changed = not path.is_file() or path.read_bytes() != text.encode()
    if changed and not args.check:
        path.write_bytes(text.encode())
    for folder, why in board.failures.items():
        where = printable(args.records / folder, 400)
        print(f"leaderboard.py: {where} does not stand and is not listed: {printable(why, 400)} "
              f"(`python scripts/verify.py {shlex.quote(where)}`)", file=sys.stderr)
    if changed and args.check:
        print(f"leaderboard.py: {printable(path)} is not what the logs give; run "
              "`python scripts/leaderboard.py` and commit it", file=sys.stderr)
    if args.json:
        print_json(dict(path=str(path), changed=changed, failures=board.failures, left_out=board.left_out,
                        records=[row.plain() for rows in tracks.values() for row in rows]))
    else:
        for folder, why in board.left_out.items():
            print(f"{printable(args.records / folder, 400)}: on no board: {why}")
        done = "would change" if changed and args.check else "written" if changed else "is up to date"
        print(f"{printable(path)} {done}: {words.count(len(board.entries), 'record')}")
    return 1 if board.failures or (changed and args.check) else 0


if __name__ == "__main__":
    sys.exit(main())
