"""What a log's header must agree with: its sources, its hashes, the track, the command, the shards, git.

Each rule takes a LoggedRun and yields (line, what is wrong); `complete` takes the Log, whose header may be
broken.
"""
import json
import re
from dataclasses import asdict
from functools import lru_cache

from data.shards import batches_in, out_of_order
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.log.format import FORMAT, Log, digest, without_note
from speedrun.log.header import schema_errors
from speedrun.log.run import LoggedRun
from speedrun.text import printable, source_text
from tracks import TRACKS

from .history import blobs, history

# What modded-nanogpt's parser takes for a validation, wherever it stands: no source may hold one.
THEIR_LINE = re.compile(r"step:([0-9]+)/([0-9]+)\s+val_loss:([0-9.]+)")
SOURCE_PATH = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*\.py", re.ASCII)


def clip(value) -> str:
    """A value of a log in at most 40 characters of plain text."""
    return printable(value, 40)


def complete(log: Log):
    """The `run` event has every field of the header, each of its kind; steps do not exceed schedule_steps."""
    headers = [line for line, kind, _ in log.events if kind == "run"]
    for what in schema_errors(log.header) if headers else ():
        yield headers[-1], what


def format_(run: LoggedRun):
    """The log is of the format that this checkout reads."""
    for line, data in run.of_kind("log"):
        if data.get("format") != FORMAT:
            yield line, f"format {clip(data.get('format'))}, this checkout reads {FORMAT}"


def sources(run: LoggedRun):
    """Every source once, under the run's folder, none that modded-nanogpt's parser reads as a validation."""
    seen = set()
    for line, data in run.of_kind("source"):
        path = str(data.get("path"))
        if not SOURCE_PATH.fullmatch(path):
            yield line, f"{clip(path)!r} is no path of a Python file under the run's folder"
        elif path in seen:
            yield line, f"the source of {path} stands twice"
        elif match := THEIR_LINE.search(run.log.sources[path]):
            yield line, f"{path} holds {clip(match[0])!r}, a validation to modded-nanogpt's parser"
        seen.add(path)
    if "train_gpt.py" not in seen:
        yield run.line, "the source of train_gpt.py is missing"


def hashes(run: LoggedRun):
    """The header's sha256 of code, track, recipe and data are those of what the log holds."""
    recipe = without_note(run.header["recipe"])
    held = dict(code=run.log.sources, track=run.header["track"], recipe=recipe, data=run.header["data"])
    for name, value in held.items():
        if digest(value) != run.header["sha256"][name]:
            yield run.line, f"sha256.{name} is not that of the {name} in this log"


def track(run: LoggedRun):
    """An official track is this checkout's, field by field; what the command overrides is custom."""
    name, overridden = run.track.name, any(kind == "track" for kind, _, _ in run.command.overrides)
    if not run.official:
        if name in TRACKS and not overridden:
            yield run.line, f"the command does not override the track {name}, and yet it is called custom"
        return
    if overridden:
        yield run.line, "the command overrides the track, and yet it is called official"
    if name not in TRACKS:
        yield run.line, f"this checkout has no track {clip(name)!r}"
        return
    ours = asdict(TRACKS[name])
    for field, said in asdict(run.track).items():
        if json.dumps(said) != json.dumps(ours[field]):
            yield run.line, f"{field} is {printable(said)}, the track {name} fixes {ours[field]}"


def command(run: LoggedRun):
    """Seeds, track and recipe are those that the command asks for, overrides included."""
    header, asked = run.header, run.command
    if asked.wrong:
        yield run.line, f"the command cannot be read: {clip(asked.wrong)}"
        return
    name = asked.args.recipe + "".join(f"+{field}={text}" for kind, field, text in asked.overrides
                                       if kind == "recipe")
    for what, there, want in (("seeds", header["seeds"], asked.args.seeds),
                              ("recipe", run.recipe.name, name),
                              ("track", run.track.name, asked.args.track or run.track.name)):
        if there != want:
            said = printable(there)
            yield run.line, f"{what}: the command asks for {printable(want)}, the header has {said}"
    last = {(kind, field): text for kind, field, text in asked.overrides}  # of one given twice, as it trains
    for (kind, field), text in last.items():
        value = header[kind]
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else text  # the constants of a stage
        if not _same(value, text):
            asks = f"{kind}.{clip(field)}: the command asks for {clip(text)}"
            yield run.line, f"{asks}, the header has {clip(value)}"


def recipe(run: LoggedRun):
    """Where the optimizers are this checkout's, the recipe is what they make of the command."""
    sources = run.log.sources
    ours = [path for path in sources if path.startswith("optimizers/")]
    if run.command.wrong or "optimizers/recipes.py" not in ours or any(here(p) != sources[p] for p in ours):
        return
    try:  # here alone: the other rules need no torch, which these load
        from optimizers import resolve
        from speedrun.training.overrides import override
    except ImportError:
        return
    try:
        made = resolve(run.command.args.recipe, run.track.name)
        for kind, field, text in run.command.overrides:
            made = override(made, kind, field, text) if kind == "recipe" else made
    except (KeyError, Refusal) as error:
        yield run.line, f"the optimizers of this log know no such recipe: {printable(error)}"
        return
    for field, value in made.resolved().items():
        there = run.header["recipe"].get(field)
        if field not in ("name", "note") and json.dumps(value) != json.dumps(there):
            makes = f"the optimizers of this log make it {printable(value)}"
            yield run.line, f"{field} is {printable(there)}, {makes}"


@lru_cache
def here(path: str) -> str | None:
    """The text of a source of this checkout, None where it has none of this path."""
    if not SOURCE_PATH.fullmatch(path) or not (ROOT / path).is_file():
        return None
    return source_text(ROOT / path)


def _same(value, text: str) -> bool:
    if isinstance(value, bool) or value is None:
        return text == {True: "true", False: "false", None: "none"}[value]
    try:
        return isinstance(value, (int, float)) and float(text) == value or text == value
    except ValueError:
        return False


def data(run: LoggedRun):
    """The shards are those that the track pins, and hold what the steps and the validation read."""
    pinned = run.track.sha256 if run.official else {}
    for split in ("train", "val"):
        shards = run.header["data"][split]
        names = [shard["name"] for shard in shards]
        for name, sha256 in ((shard["name"], shard["sha256"]) for shard in shards):
            if not re.fullmatch(rf".+_{split}_[0-9]+\.bin", name) or names.count(name) > 1:
                yield run.line, f"{clip(name)} is no {split} shard, or stands twice"
            if pinned and pinned.get(name) != sha256:
                yield run.line, f"{clip(name)} is not the shard that the track pins"
        if run.official and (wrong := out_of_order(sorted(names), split)):
            yield run.line, printable(wrong)
    held = batches(run)
    if run.official and held < run.recipe.steps:
        yield run.line, f"the training shards hold {held} batches for {run.recipe.steps} steps"
    if sum(shard["tokens"] for shard in run.header["data"]["val"]) < run.track.val_tokens + 2:
        yield run.line, f"the validation shards hold less than {run.track.val_tokens + 2} tokens"


def batches(run: LoggedRun) -> int:
    """The batches in the training shards that the header lists."""
    return sum(batches_in(shard["tokens"], run.track.tokens_per_step)
               for shard in run.header["data"]["train"])


def git(run: LoggedRun):
    """Where the run says that it ran a commit unchanged, and this clone has it, its sources are the same."""
    state = run.header["git"]
    if state is None or state["changed"] is not False:
        return
    tree = history().tree(state["commit"])
    for path, text in run.log.sources.items():
        if path in tree and tree[path] not in blobs(text):
            yield run.line, f"{path} is not that of commit {state['commit'][:10]}, called unchanged"
