"""Fetch token shards of FineWeb (GPT-2 tokens, 100M a shard) from the hub dataset kjj0/fineweb10B-gpt2.

    python data/cached_fineweb10B.py 18

Every file is compared with the sha256 that the hub records for it and noted in `manifest.json` beside the
shards (size, sha256, mtime, commit), so a second run needs no network. A file is downloaded beside its place
and renamed into it when it is known to be right: nothing good is ever overwritten by something worse.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy")

from data.hub import fetch_all, load_manifest
from data.shards import NUM_SHARDS, token_count
from speedrun import ROOT
from speedrun.cli import Parser, command, print_json

REPO, SHARD_BYTES = "kjj0/fineweb10B-gpt2", 200_001_024
DEFAULT_SHARDS = -(-3250 // 190)  # a run of 3,250 steps; 190 batches of 524,288 tokens in a shard

HELP = """Fetch the validation shard and the first N training shards (200 MB each) of FineWeb, GPT-2 tokens.

A shard holds 190 steps of the fineweb-124m track: the default of 18 shards lasts 3,250 steps; the 5,625
steps of the adamw recipe need 30. An interrupted download is resumed by the next run; with everything
present no network is used. HF_ENDPOINT names another hub, HF_TOKEN an account."""


def shard_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= NUM_SHARDS:
        raise argparse.ArgumentTypeError(f"N is {text}, the dataset has training shards 1 to {NUM_SHARDS}")
    return int(text)


@command
def main(argv) -> int:
    parser = Parser(prog="cached_fineweb10B.py", description=HELP,
                    epilog="example:\n  python data/cached_fineweb10B.py 30 --out data/fineweb10B")
    parser.add_argument("n", nargs="?", type=shard_number, default=DEFAULT_SHARDS, metavar="N",
                        help=f"training shards, 1 to {NUM_SHARDS} (default: {DEFAULT_SHARDS})")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "fineweb10B", metavar="DIR",
                        help="folder of the shards (default: data/fineweb10B of this repository)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout at the end")
    args = parser.parse_args(argv)
    names = ["fineweb_val_000000.bin", *(f"fineweb_train_{i:06d}.bin" for i in range(1, args.n + 1))]
    fetched = fetch_all(args.out, names, REPO, SHARD_BYTES, check=token_count)
    if args.json:
        files = load_manifest(args.out)
        print_json(dict(out=str(args.out), fetched=fetched, files={name: files[name] for name in names}))
    else:
        print(f"{args.out}: validation shard and {args.n} training shards complete, {len(fetched)} fetched "
              f"or verified now, {len(names) - len(fetched)} already there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
