"""Token shards: the .bin format, its checks, and the track's token stream.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, token count, zeros) and then that
many little-endian uint16 token ids: the format of llm.c and of modded-nanogpt's fineweb10B shards.
"""
import hashlib
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from speedrun.cli import Refusal

MAGIC, VERSION, HEADER_BYTES, TOKEN_BYTES = 20240520, 1, 1024, 2
NUM_SHARDS = 103  # training shards of fineweb10B


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write `tokens` (integers below 65,536) as a shard, beside its place and then renamed into it."""
    tokens = np.asarray(tokens)
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**16:
        raise ValueError(f"{path}: token ids must lie in 0..65535, got {tokens.min()}..{tokens.max()}")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes may make the same shard
    try:
        with open(partial, "wb") as file:
            file.write(header.tobytes())
            file.write(tokens.astype("<u2").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # a full disk does not say which file
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def token_count(path: Path) -> int:
    """The number of tokens of a shard, after checking its magic, version, and size against its count."""
    path = Path(path)
    fix = "delete it and fetch or tokenise it again"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), dtype=np.uint8)
    except OSError as error:
        raise Refusal(f"{path}: cannot read this shard ({error.strerror}); {fix}") from None
    if size == 0:
        raise Refusal(f"{path}: this shard has zero bytes, a download that never arrived; {fix}")
    if header.size < HEADER_BYTES:
        raise Refusal(f"{path}: {size} bytes is shorter than a shard's 1024-byte header; {fix}")
    magic, version, count = (int(x) for x in header.view("<i4")[:3])
    if magic != MAGIC:
        if int(header.view(">i4")[0]) == MAGIC:
            raise Refusal(f"{path}: a big-endian shard; write it again with little-endian integers")
        raise Refusal(f"{path}: not a token shard (magic {magic}, expected {MAGIC}); {fix}")
    if version != VERSION:
        raise Refusal(f"{path}: shard version {version}, this code reads version {VERSION}; {fix}")
    expected = HEADER_BYTES + TOKEN_BYTES * count
    if count < 0 or size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise Refusal(f"{path}: {state}: the header promises {count} tokens ({expected} bytes), "
                      f"the file has {size} bytes; {fix}")
    return count


def open_shard(path: Path) -> np.ndarray:
    """The tokens of a checked shard as a read-only memory map of uint16."""
    count = token_count(path)
    if count == 0:
        return np.zeros(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split ("train" or "val") in `folder`: NAME_SPLIT_NUMBER.bin, in name order."""
    # NAME may itself contain "_val_", so a pattern without the number would mix the splits.
    return sorted(p for p in Path(folder).glob("*.bin") if re.fullmatch(rf".+_{split}_\d+\.bin", p.name))


def batches_in(num_tokens: int, batch_tokens: int) -> int:
    """Batches a shard yields: one starts at pos = 0, B, 2B, ... while pos + B + 1 < num_tokens.

    190 batches of 524,288 in a shard of 100M tokens.
    """
    return max(0, -(-(num_tokens - batch_tokens - 1) // batch_tokens))


def fetch_words(track, steps: int) -> str:
    """The command, as words under the repository, that makes or fetches the shards of so many steps, or all
    that there are."""
    if track.data == "laptop":
        return "data/sample.py"
    count = -(-steps // max(1, batches_in(100_000_000, track.tokens_per_step)))
    return f"data/cached_fineweb10B.py {min(count, NUM_SHARDS)}"


def inspect(paths: list[Path], vocab_size: int, pinned: dict | None = None, fix: str = "") -> list[dict]:
    """Name, token count and sha256 of each shard, read whole. Refusal for token ids outside the vocabulary,
    and for a shard that is not one of `pinned` {name: sha256} where the track pins them; `fix` makes the
    right ones.

    One thread a shard: hashing and numpy release the lock, so this runs at the speed of the disk.
    """
    def one(path):
        tokens = open_shard(path)
        top = int(tokens.max()) if tokens.size else 0
        if top >= vocab_size:
            where = int(np.argmax(tokens >= vocab_size))
            raise Refusal(f"{path}: token {int(tokens[where])} at position {where} is outside the "
                          f"vocabulary of {vocab_size}: another tokenizer made these shards; fix --data-dir")
        digest = sha256_of(path)
        if pinned and pinned.get(Path(path).name) != digest:
            raise Refusal(f"{path} is not the shard that the track pins by this name; delete it and {fix}")
        return dict(name=Path(path).name, tokens=int(tokens.size), sha256=digest)

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(one, paths))


class TokenStream:
    """The track's global batches in order, and this rank's slice of each: `stream[step]`.

    Shards in name order, consecutive batches of `batch_tokens`; a shard is left when
    pos + batch_tokens + 1 >= its length; each rank takes a contiguous slice. Addressed by step, so the data
    position of a run is its step and nothing else. `stream[step]` gives uint16 inputs and targets of shape
    (batch_tokens / world_size / context, context), targets being inputs shifted by one token.
    """

    def __init__(self, paths, batch_tokens: int, context: int, rank: int = 0, world_size: int = 1,
                 wrap: bool = False):
        self.paths = [Path(p) for p in paths]
        self.batch_tokens, self.context, self.wrap = batch_tokens, context, wrap
        self.local = batch_tokens // world_size
        self.first = rank * self.local
        self.counts = [token_count(p) for p in self.paths]
        batches = [batches_in(count, batch_tokens) for count in self.counts]
        self.ends = np.cumsum(batches, dtype=np.int64)  # global step at which each shard is used up

    def __len__(self) -> int:
        """The number of batches in one pass over the shards."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def shards_for(self, steps: int) -> list[Path]:
        """The shards that the first `steps` batches read."""
        return self.paths[:int(np.searchsorted(self.ends, min(steps, len(self)))) + 1]

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if len(self) == 0 or (step >= len(self) and not self.wrap):
            raise Refusal(f"step {step} needs batch {step + 1}, the shards hold {len(self)}; get more "
                          "shards")
        step %= len(self)
        shard = int(np.searchsorted(self.ends, step, side="right"))
        pos = (step - (int(self.ends[shard - 1]) if shard else 0)) * self.batch_tokens + self.first
        window = self._read(shard, pos)
        return window[:-1].reshape(-1, self.context), window[1:].reshape(-1, self.context)

    def _read(self, shard: int, pos: int) -> np.ndarray:
        """This rank's tokens of a batch. Read and not mapped: a page of a map after the end of a file that
        shrank kills the process without a word."""
        path, state = self.paths[shard], "is gone"
        try:
            window = np.fromfile(path, dtype="<u2", count=self.local + 1,
                                 offset=HEADER_BYTES + TOKEN_BYTES * pos)
            size = os.stat(path).st_size
            if size == HEADER_BYTES + TOKEN_BYTES * self.counts[shard] and window.size == self.local + 1:
                return window
            state = f"changed its size to {size} bytes"
        except FileNotFoundError:
            pass
        except OSError as error:
            state = f"cannot be read ({error.strerror})"
        raise Refusal(f"{path}: this shard {state} during the run; put it back and go on with --resume, or "
                      "start again", everywhere=False)


def out_of_order(names: list[str], split: str) -> str | None:
    """What is wrong with the names of the shards that an official track reads; None where nothing is: they
    are NAME_train_000001.bin and on, or NAME_val_000000.bin and on, of one NAME and none left out."""
    stem = re.sub(rf"_{split}_\d+\.bin", "", names[0])
    for name, number in zip(names, itertools.count(1 if split == "train" else 0)):
        if not re.fullmatch(rf"{re.escape(stem)}_{split}_0*{number}\.bin", name):
            return f"{name} stands where {stem}_{split}_{number:06d}.bin is read"
    return None


def open_streams(folder: Path, track, steps: int, rank: int, world_size: int, fix: str) -> tuple:
    """The track's training and validation TokenStream over the shards in `folder`.

    Refusal where shards are missing or broken, where an official track's are out of order, or where they
    hold too little for `steps` steps (a track that is not official may wrap) or for the validation; `fix` is
    the command that fixes it.
    """
    found = {split: find_shards(folder, split) for split in ("train", "val")}
    for split, paths in found.items():
        if not paths:
            raise Refusal(f"no {split} shards (*_{split}_*.bin) in {folder}; {fix}")
    place = (track.context, rank, world_size)
    train = TokenStream(found["train"], track.tokens_per_step, *place, wrap=not track.official)
    val = TokenStream(found["val"], track.val_tokens, *place)
    if len(val) < 1:
        raise Refusal(f"the validation shards in {folder} do not hold the {track.val_tokens + 2} tokens "
                      f"that {track.name} validates on; {fix}")
    if len(train) < steps and (track.official or len(train) == 0):
        raise Refusal(f"{steps} steps of {track.tokens_per_step} tokens need {steps} batches, the "
                      f"{len(train.paths)} training shards in {folder} hold {len(train)}; {fix}")
    for split, used in (("train", train.shards_for(steps)), ("val", val.shards_for(1))):
        if track.official and (wrong := out_of_order([path.name for path in used], split)):
            raise Refusal(f"{folder}: {wrong}; the data of {track.name} is not any other's: {fix}")
    return train, val
