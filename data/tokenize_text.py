"""Turn text into token shards: .txt, .jsonl (.gz, .xz), .parquet or a hub dataset.

    python data/tokenize_text.py books.jsonl.gz --out data/books --tokenizer gpt2

Documents keep their order, the first ones are the validation split. Workers share the encoding; the result
does not depend on their number. The shards appear in the folder together, when all of them are written.
"""
import argparse
import collections
import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy")

import numpy as np

from data.hub import library
from data.read_text import find_sources, read
from data.shards import write_shard
from speedrun.cli import Parser, Refusal, command, print_json

SEPARATOR = 50256  # GPT-2's <|endoftext|>, before every document
MAX_VAL_TOKENS = 10_485_761  # the validation tokens of the fineweb-124m track and their last target
TASK_CHARS, TASK_PIECES = 2**18, 1024  # what a worker takes at a time

HELP = """Turn text into shards DIR/x_train_000001.bin, ... and DIR/x_val_000000.bin, x being DIR's name.

IN is a .txt (one document), a .jsonl, .jsonl.gz, .jsonl.xz or .parquet (one document a row), or a hub
dataset: hf://datasets/OWNER/NAME for all its .jsonl and .parquet files, hf://datasets/OWNER/NAME/PATH for a
folder or for the files that match (PATH may hold *). gpt2 puts <|endoftext|> before every document; bytes
puts nothing there."""


# ---------------------------------------------------------------- encoding, in parallel and in order


def load_gpt2() -> None:
    try:
        library("tiktoken").get_encoding("gpt2")
    except Refusal:
        raise
    except Exception as error:  # requests' errors, a wrong hash, a cache that cannot be written
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise Refusal(f"GPT-2's BPE files do not load ({reason}); tiktoken fetches them once from the "
                      "network: connect once, or set TIKTOKEN_CACHE_DIR to a folder that has them") from None


def encode(tokenizer: str, pieces: list[tuple[bool, str]]) -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens of the pieces end to end (uint16), the number of each, how many documents begin in them."""
    parts = []
    for opens, text in pieces:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON allows half a pair
        if tokenizer == "bytes":
            parts.append(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16))
        else:
            ids = library("tiktoken").get_encoding("gpt2").encode_ordinary(text)
            parts.append(np.array([SEPARATOR] * opens + ids, dtype=np.uint16))
    return np.concatenate(parts), np.array([p.size for p in parts]), sum(opens for opens, _ in pieces)


def group(pieces):
    """Lists of pieces, each about TASK_CHARS characters."""
    task, chars = [], 0
    for piece in pieces:
        task.append(piece)
        chars += len(piece[1])
        if chars >= TASK_CHARS or len(task) >= TASK_PIECES:
            yield task
            task, chars = [], 0
    if task:
        yield task


def start_worker() -> None:
    """A worker ends with its parent, however that ends."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def submit(pool, *call):
    """`pool.submit` with Ctrl-C held back: a worker it starts never sees one, the parent does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(*call)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def encode_all(tasks, tokenizer: str, workers: int):
    """`encode` of every task, in order, with a few tasks a worker under way: memory stays bounded."""
    if workers == 1:
        yield from (encode(tokenizer, task) for task in tasks)
        return
    # A process pool of concurrent.futures notices a killed worker; multiprocessing.Pool would wait for ever.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    pending = collections.deque()
    try:
        for task in tasks:
            pending.append(submit(pool, encode, tokenizer, task))
            if len(pending) >= 3 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise Refusal("a worker was killed, most often for want of memory; use fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------- writing


class ShardWriter:
    """Cuts a stream of tokens into shards of `shard_tokens`, numbered from `number`."""

    def __init__(self, folder: Path, prefix: str, number: int, shard_tokens: int):
        self.folder, self.prefix, self.number = folder, prefix, number
        self.buffer, self.filled, self.total = np.empty(shard_tokens, dtype=np.uint16), 0, 0
        self.names = []

    def add(self, tokens: np.ndarray) -> None:
        self.total += tokens.size
        while tokens.size:
            part = tokens[:self.buffer.size - self.filled]
            self.buffer[self.filled:self.filled + part.size] = part
            self.filled, tokens = self.filled + part.size, tokens[part.size:]
            if self.filled == self.buffer.size:
                self.flush()

    def flush(self) -> None:
        """Write what is buffered, if anything, as a shard."""
        if not self.filled:
            return
        name = f"{self.prefix}_{self.number:06d}.bin"
        write_shard(self.folder / name, self.buffer[:self.filled])
        print(f"{name}: {self.filled:,} tokens", file=sys.stderr, flush=True)
        self.names.append(name)
        self.number, self.filled = self.number + 1, 0


def default_val_tokens(batches):
    """A tenth of the input, at most MAX_VAL_TOKENS, and the batches again; holds at most ten times that."""
    held, total = collections.deque(), 0
    for batch in batches:
        held.append(batch)
        total += batch[0].size
        if total >= 10 * MAX_VAL_TOKENS:
            break

    def drain():
        while held:
            yield held.popleft()

    return min(MAX_VAL_TOKENS, max(1, total // 10)), itertools.chain(drain(), batches)


def write_split(batches, folder: Path, prefix: str, val_tokens: int, shard_tokens: int) -> dict:
    """Write both splits, whole documents into validation until it has `val_tokens`. Names and counts."""
    val = ShardWriter(folder, f"{prefix}_val", 0, shard_tokens)
    train = ShardWriter(folder, f"{prefix}_train", 1, shard_tokens)
    documents = 0
    for tokens, sizes, opened in batches:
        documents, cut = documents + opened, 0
        if val.total < val_tokens:
            ends = np.cumsum(sizes)
            cut = int(ends[min(np.searchsorted(ends, val_tokens - val.total), len(ends) - 1)])
        val.add(tokens[:cut])
        train.add(tokens[cut:])
    if train.total == 0:
        raise Refusal(f"all {val.total:,} tokens went into validation and none are left to train on; give "
                      "more text or a smaller --val-tokens (it takes whole documents)")
    val.flush()
    train.flush()
    return dict(documents=documents, val_tokens=val.total, train_tokens=train.total,
                shards=val.names + train.names)


@contextlib.contextmanager
def unfinished(out: Path):
    """A folder in `out` for shards in the making; they move to `out` together at the end, or vanish."""
    shards, staging = sorted(out.glob("*.bin")), out / "tokenize_text.partial"
    if shards:
        raise Refusal(f"{out}: holds {len(shards)} shards already ({shards[0].name} first), this would mix "
                      f"two data sets; delete them (rm {out}/*.bin) or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    try:
        staging.mkdir()
    except FileExistsError:
        raise Refusal(f"{out}: another run is writing here or was killed; once none is running, delete what "
                      f"it left: rm -r {staging}") from None
    try:
        yield staging
        for path in sorted(staging.iterdir()):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


# ---------------------------------------------------------------- command line


def count(least: int):
    """An argparse type: an integer from `least` to what a shard's header can hold."""
    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {2**31 - 1}")
        return value

    return convert


def parse(argv):
    parser = Parser(prog="tokenize_text.py", description=HELP,
                    epilog="example:\n  python data/tokenize_text.py a.jsonl.gz b.parquet --out data/mine "
                           "--tokenizer gpt2")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("inputs", nargs="+", metavar="IN", help="files, or hf://datasets/OWNER/NAME[/PATH]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder of the shards; it may not hold any yet")
    parser.add_argument("--tokenizer", choices=("gpt2", "bytes"), required=True)
    parser.add_argument("--val-tokens", type=count(0), metavar="N",
                        help="validation is the first documents that hold N tokens, the last one whole; "
                             "a .txt may be cut "
                             f"(default: a tenth of the input, at most {MAX_VAL_TOKENS:,})")
    parser.add_argument("--shard-tokens", type=count(1), default=100_000_000, metavar="N",
                        help="tokens of a full shard (default: 100,000,000)")
    parser.add_argument("--workers", type=count(1), default=cores, metavar="N",
                        help=f"processes, the shards do not depend on them (default: the cores, {cores})")
    parser.add_argument("--text-field", default="text", metavar="NAME",
                        help="field or column with the text (default: text)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout at the end")
    return parser.parse_args(argv)


@command
def main(argv) -> int:
    args = parse(argv)
    sources = find_sources(args.inputs)
    if args.tokenizer == "gpt2":
        load_gpt2()
    with unfinished(args.out) as staging:
        batches = encode_all(group(read(sources, args.text_field)), args.tokenizer, args.workers)
        with contextlib.closing(batches):
            stream, val_tokens = batches, args.val_tokens
            if val_tokens is None:
                val_tokens, stream = default_val_tokens(batches)
            result = write_split(stream, staging, args.out.resolve().name, val_tokens, args.shard_tokens)
    if args.json:
        print_json(dict(out=str(args.out), tokenizer=args.tokenizer, **result))
    else:
        print(f"{args.out}: {result['documents']:,} documents, {result['train_tokens']:,} training and "
              f"{result['val_tokens']:,} validation tokens in {len(result['shards'])} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
