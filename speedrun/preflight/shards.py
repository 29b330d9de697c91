"""Preflight of the shards: present, enough, whole, in order, and the ones they claim to be."""
import contextlib
import io
import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.hub import load_manifest
from data.shards import HEADER_BYTES, TOKEN_BYTES, fetch_words, find_shards, sha256_of, token_count
from speedrun.cli import Refusal
from speedrun.training.plan import open_streams

from .machine import Finding

WINDOWS, WINDOW = 16, 4096  # sampled of each shard: so many stretches of so many tokens


def fetch_command(plan) -> str:
    """The command that makes or fetches the plan's shards, into the folder the plan reads."""
    out = f" --out {shlex.quote(str(plan.data_dir))}" if plan.args.data_dir else ""
    return f"`python {fetch_words(plan.track, plan.recipe.steps)}{out}`"


def make_again(plan, path: Path) -> str:
    """How to get another copy of a shard that is no good."""
    return f"run `rm {shlex.quote(str(path))}` and then {fetch_command(plan)}"


def shards(plan, full: bool = False) -> list[Finding]:
    """Every check of the plan's shards; `full` hashes all that have a recorded sha256, else only the
    validation's and those that the track pins."""
    found = [*_leftovers(plan)]
    paths = {split: find_shards(plan.data_dir, split) for split in ("train", "val")}
    bad = [finding for path in (*paths["train"], *paths["val"]) for finding in _header(plan, path)]
    if bad:
        return found + bad
    try:
        train, val = open_streams(plan)
    except Refusal as refusal:
        what, _, fix = str(refusal).rpartition("; ")
        return [*found, Finding("stop", "shards", what, "the run would not start", fix)]
    steps, used = plan.recipe.steps, dict(train=train.shards_for(plan.recipe.steps), val=val.shards_for(1))
    epochs = f", so {steps / len(train):.1f} epochs" if steps > len(train) else ""
    found.append(Finding("ok", "shards", f"{steps} steps read {len(used['train'])} of "
                         f"{len(paths['train'])} training shards, which hold {len(train)} steps{epochs}"))
    found += _order(plan, used)
    return found + _contents(plan, used, full)


def _header(plan, path: Path) -> list[Finding]:
    try:
        token_count(path)
    except Refusal as refusal:
        what = str(refusal).rpartition("; ")[0]
        return [Finding("stop", "shards", what, "the run would not start", make_again(plan, path))]
    return []


def _leftovers(plan) -> list[Finding]:
    partial = [path.stat().st_size for path in Path(plan.data_dir).glob("*.bin.*.partial")]
    if not partial:
        return []
    return [Finding("warn", "shards", f"{len(partial)} unfinished downloads (*.partial, "
                    f"{sum(partial) / 1e6:.1f} MB) in {plan.data_dir}",
                    "what they belong to is not complete",
                    f"run {fetch_command(plan)}, which resumes them")]


def _order(plan, used: dict) -> list[Finding]:
    """Whether the shards read are one data set without a gap: of an official track they must be, or
    open_streams refuses them; elsewhere the stream goes by name, and skips in silence."""
    found, cost = [], "the run would train on other data than the track's, in another order"
    for split in ("train", "val"):
        matches = [re.fullmatch(rf"(.+)_{split}_(\d+)\.bin", path.name) for path in used[split]]
        names, numbers = sorted({m[1] for m in matches}), [int(m[2]) for m in matches]
        if len(names) > 1:
            found.append(Finding("warn", "shards", f"the {split} shards read are of several data sets: "
                                 f"{', '.join(names)}", cost, "move all but one to another folder"))
            continue
        if missing := sorted(set(range(numbers[0], numbers[0] + len(numbers))) - set(numbers)):
            found.append(Finding("warn", "shards", f"{names[0]}_{split} has no number {missing[0]}, though "
                                 f"{numbers[-1]} would be read", cost, f"run {fetch_command(plan)}"))
    return found


@dataclass
class Content:
    """What was seen of one shard; `error` where it could not be read."""

    path: Path
    recorded: set                # of sha256: those the track pins, else the manifest's
    entry: dict | None           # of the manifest
    size: int = 0                # bytes
    mtime_ns: int = 0
    digest: str | None = None    # where it was hashed
    top: int = 0                 # largest token id sampled
    hole: int | None = None      # first position of a sampled stretch of a single id
    error: str = ""

    def sample(self) -> None:
        """Look at WINDOWS stretches of the tokens, or at all where there are no more."""
        count = (self.size - HEADER_BYTES) // TOKEN_BYTES
        starts = range(0, count, WINDOW)
        if count > WINDOWS * WINDOW:
            starts = [int(start) for start in np.linspace(0, count - WINDOW, WINDOWS)]
        with open(self.path, "rb") as file:
            for start in starts:
                file.seek(HEADER_BYTES + TOKEN_BYTES * start)
                tokens = np.frombuffer(file.read(TOKEN_BYTES * WINDOW), dtype="<u2")
                self.top = max(self.top, int(tokens.max(initial=0)))
                if self.hole is None and tokens.size == WINDOW and tokens.min() == tokens.max():
                    self.hole = start

    def hash(self) -> None:
        self.digest = sha256_of(self.path)


def _manifest(folder: Path) -> tuple[dict, bool]:
    """The entries of the manifest by file name, and whether there is one that cannot be read."""
    with contextlib.redirect_stderr(io.StringIO()) as complaint:  # it tells what another command will do
        try:
            files = load_manifest(folder)
        except (OSError, RecursionError, OverflowError):
            return {}, True
    return files, bool(complaint.getvalue())


def _look(path: Path, recorded: set, entry: dict | None, hashed: bool) -> Content:
    content = Content(path, recorded, entry)
    try:
        stat = path.stat()
        content.size, content.mtime_ns = stat.st_size, stat.st_mtime_ns
        content.sample()
        if hashed and recorded:
            content.hash()
    except OSError as error:
        content.error = error.strerror or str(error)
    return content


def _contents(plan, used: dict, full: bool) -> list[Finding]:
    """Sampled ids of every shard read, sizes and time stamps against the manifest, and the hashes asked
    for."""
    manifest, broken = _manifest(Path(plan.data_dir))
    pinned = plan.track.sha256 if plan.track.official else {}

    def look(job) -> Content:
        path, hashed = job
        entry = manifest.get(path.name)
        known = {pinned.get(path.name)} if pinned else {entry["sha256"]} if entry else set()
        return _look(path, known, entry, hashed)

    jobs = [(path, full or split == "val" or pinned) for split in used for path in used[split]]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        contents = list(pool.map(look, jobs))
    wrong = [finding for content in contents for finding in _wrong(plan, content)]
    return wrong + _known(plan, contents, broken)


def _wrong(plan, content: Content) -> list[Finding]:
    """What is wrong with one shard."""
    path, entry, found = content.path, content.entry, []
    vocab_size, again = plan.track.model.vocab_size, make_again(plan, content.path)
    if content.error:
        found.append(Finding("stop", "shards", f"{path}: cannot read this shard ({content.error})",
                             "the run would end when it gets there", again))
    elif content.digest and content.digest not in content.recorded:
        found.append(Finding("stop", "shards", f"{path}: its sha256 {content.digest[:16]}... is not the "
                             "recorded one", "losses on it compare with nothing", again))
    elif entry and entry["size"] != content.size:
        found.append(Finding("stop", "shards", f"{path}: {content.size} bytes, the manifest records "
                             f"{entry['size']}", "losses on it compare with nothing", again))
    if content.top >= vocab_size:
        found.append(Finding("stop", "shards", f"{path}: token {content.top} is outside the vocabulary of "
                             f"{vocab_size}", "the run would not start: another tokenizer made these shards",
                             f"fix --data-dir, or {again}"))
    if content.hole is not None:
        found.append(Finding("warn", "shards", f"{path}: {WINDOW} equal tokens from position {content.hole} "
                             "on, as where a download left a hole", "the run learns nothing there", again))
    return found


def _known(plan, contents: list[Content], broken_manifest: bool) -> list[Finding]:
    """How far the shards are known to be the right ones, a line a state."""
    found, names = [], {"hashed": [], "copied": [], "unknown": []}
    for content in contents:
        if content.digest in content.recorded:
            names["hashed"].append(content.path.name)
        elif not content.recorded:
            names["unknown"].append(content.path.name)
        elif content.entry and content.entry["mtime_ns"] != content.mtime_ns and not content.digest:
            names["copied"].append(content.path.name)
    if names["hashed"]:
        found.append(Finding("ok", "shards", f"sha256 as recorded: {_some(names['hashed'])}"))
    if names["copied"]:
        found.append(Finding("warn", "shards", f"other time stamps than the manifest's: "
                             f"{_some(names['copied'])}", "they were copied, or changed since they came",
                             "run `python scripts/preflight.py --full`, which hashes them"))
    if broken_manifest:
        found.append(Finding("warn", "shards", f"{plan.data_dir}/manifest.json is unreadable",
                             "wrong content would go unnoticed",
                             f"run {fetch_command(plan)}, which writes it again"))
    elif names["unknown"] and plan.track.data == "fineweb10B":
        found.append(Finding("warn", "shards", f"no sha256 is recorded for {_some(names['unknown'])}",
                             "wrong content would go unnoticed",
                             f"run {fetch_command(plan)}, which compares them with the hub"))
    return found


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
