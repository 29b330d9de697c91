"""The header of a record log: its shape, and what its command asked for."""
import math
import re
import shlex
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

from speedrun.cli import Parser, Refusal
from train_gpt import ModelConfig, Track

from .format import Log

MOST_STEPS, MOST_ITEMS = 10**6, 2000  # of a run, of a list: bounds what a made-up header can cost


def text(value) -> bool:
    return isinstance(value, str) and len(value) < 10_000


def whole(value) -> bool:
    return type(value) is int and value >= 0


def count(value) -> bool:
    return type(value) is int and value >= 1


def number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def truth(value) -> bool:
    return type(value) is bool


def hexadecimal(digits: int):
    form = re.compile(rf"[0-9a-f]{{{digits}}}")
    return lambda value: isinstance(value, str) and form.fullmatch(value) is not None


def either(*shapes):
    return lambda value: any(not list(_misfits(value, shape, "")) for shape in shapes)


def nothing(value) -> bool:
    return value is None


SHA256 = hexadecimal(64)
SHARDS = [dict(name=text, tokens=count, sha256=SHA256)]
HEADER = dict(
    started=text, command=text, seeds=[whole], world_size=count, data=dict(train=SHARDS, val=SHARDS),
    track=dict(name=text, data=text, tokens_per_step=count, context=count, val_tokens=count,
               val_every=count, val_every_tail=count, tail=lambda value: number(value) and value <= 1,
               target=either(nothing, number), official=truth, sha256=either({}),
               model=dict(vocab_size=count, num_layers=count, model_dim=count, head_dim=count,
                          mlp_ratio=number, mlp=text, dtype=text)),
    recipe=dict(name=text, note=text, steps=lambda value: count(value) and value <= MOST_STEPS,
                schedule_steps=count, cooldown_frac=number, warmup_steps=whole, lr=number,
                weight_decay=number, momentum=number, matrices=either([text], {}), aux={}),
    sha256=dict(code=SHA256, track=SHA256, recipe=SHA256, data=SHA256),
    versions=dict(python=text, torch=text, numpy=text),
    hardware=dict(system=text, processor=text, cores=count, threads=count, device=text, name=text),
    git=either(nothing, dict(commit=hexadecimal(40), changed=truth)))

FORK = dict(trunk=text, sha256=SHA256, step=count, seconds=number)


def _misfits(value, shape, name: str):
    """What keeps `value` from a shape: a dict of shapes (all its keys), [a shape] (of each item, at least
    one), or a predicate."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{name} is no group of fields"
            return
        for key, inner in shape.items():
            if key in value:
                yield from _misfits(value[key], inner, f"{name}.{key}".lstrip("."))
            else:
                yield f"{name}.{key} is missing".lstrip(".")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not 0 < len(value) <= MOST_ITEMS:
            yield f"{name} is no list of 1 to {MOST_ITEMS} items"
            return
        for i, inner in enumerate(value):
            yield from _misfits(inner, shape[0], f"{name}[{i}]")
    elif not shape(value):
        yield f"{name} cannot be {str(value)[:60]!r}"


def misfits(header: dict) -> list[str]:
    """What keeps `header` from being complete: fields missing or of a wrong kind, and a track of no fields
    that a track has."""
    found = list(_misfits(header, HEADER, ""))
    if not found:
        try:
            header_track(header)
        except TypeError as error:
            found.append(f"track: {str(error).split('__init__() ')[-1]}")
        if header["recipe"]["steps"] > header["recipe"]["schedule_steps"]:
            found.append("recipe.steps exceeds recipe.schedule_steps")
    return found


def fork_misfits(data: dict) -> list[str]:
    """What keeps a `fork` event from being complete."""
    return list(_misfits(data, FORK, ""))


def header_track(header: dict) -> Track:
    """The track as the header has it. TypeError for a field that tracks do not have."""
    return Track(**{**header["track"], "model": ModelConfig(**header["track"]["model"])})


@dataclass
class Run:
    """A log whose header is complete, with what the rules ask of it."""

    log: Log
    line: int                 # of the header
    header: dict
    track: Track
    recipe: SimpleNamespace   # name, steps, schedule_steps
    asked: SimpleNamespace    # what the command asked for

    @classmethod
    def of(cls, log: Log, line: int) -> "Run":
        recipe = {key: log.header["recipe"][key] for key in ("name", "steps", "schedule_steps")}
        return cls(log, line, log.header, header_track(log.header), SimpleNamespace(**recipe),
                   asked(log.header["command"]))

    @property
    def official(self) -> bool:
        return self.track.official

    @property
    def start(self) -> tuple[int, float]:
        """The step, and the second of the training clock, from which this log tells: the beginning, or where
        its well-formed `fork` event says."""
        data = next((data for _, data in self.of_kind("fork") if not fork_misfits(data)), None)
        return (data["step"], data["seconds"]) if data else (0, 0.0)

    @property
    def options(self) -> list[str]:
        """What the command asks of train_gpt.py, beside track, recipe and seeds, that may change a loss; each
        as one word: no shell, nothing that is not known."""
        asked = self.asked
        words = [f"--{kind}.{field}={text}" for kind, field, text in asked.overrides]
        words += ["--allow-custom"] * any(kind == "track" for kind, _, _ in asked.overrides)
        words += ["--fast"] * asked.fast
        return words + [f"--val-every={asked.val_every}"] * (asked.val_every is not None)

    def of_kind(self, kind: str) -> list[tuple[int, dict]]:
        return [(line, data) for line, k, data in self.log.events if k == kind]


@lru_cache
def asked(command: str) -> SimpleNamespace:
    """What a header's command asks train_gpt.py for: seeds, track (None: by the device), recipe, val_every,
    fast, and overrides [(kind, field, text)]. `wrong` says why it cannot be such a command, else None."""
    parser = Parser(prog="train_gpt.py", add_help=False)
    parser.add_argument("--track")
    parser.add_argument("--recipe", default="aurora")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--val-every", type=int)
    parser.add_argument("--fast", action="store_true")
    words, wrong = [], None
    try:
        words = shlex.split(command)
        found, rest = parser.parse_known_args(words[1:])
    except (Refusal, ValueError) as error:  # ValueError: a quote that is not closed
        (found, rest), wrong = parser.parse_known_args([]), str(error)
    if words[:1] != ["train_gpt.py"]:
        wrong = "it does not start train_gpt.py"
    overrides = []
    for word, after in zip(rest, [*rest[1:], ""]):
        match = re.fullmatch(r"--(recipe|track)\.([^=]+)(?:=(.*))?", word)
        if match:
            overrides.append((match[1], match[2], after if match[3] is None else match[3]))
    if found.steps is not None:
        overrides.append(("recipe", "steps", str(found.steps)))
    return SimpleNamespace(**vars(found), overrides=overrides, wrong=wrong)
