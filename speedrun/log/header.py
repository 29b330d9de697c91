"""The header of a record log: its shape."""
import math
import re

from tracks import ModelConfig, Track

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
    return lambda value: any(not list(_schema_errors(value, shape, "")) for shape in shapes)


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
    git=either(nothing, dict(commit=hexadecimal(40), changed=either(nothing, truth))))

FORK = dict(trunk=text, sha256=SHA256, step=count, seconds=number)


def _schema_errors(value, shape, name: str):
    """What keeps `value` from a shape: a dict of shapes (all its keys), [a shape] (of each item, at least
    one), or a predicate."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{name} is no group of fields"
            return
        for key, inner in shape.items():
            if key in value:
                yield from _schema_errors(value[key], inner, f"{name}.{key}".lstrip("."))
            else:
                yield f"{name}.{key} is missing".lstrip(".")
    elif isinstance(shape, list):
        if not isinstance(value, list) or not 0 < len(value) <= MOST_ITEMS:
            yield f"{name} is no list of 1 to {MOST_ITEMS} items"
            return
        for i, inner in enumerate(value):
            yield from _schema_errors(inner, shape[0], f"{name}[{i}]")
    elif not shape(value):
        yield f"{name} cannot be {str(value)[:60]!r}"


def schema_errors(header: dict) -> list[str]:
    """What keeps `header` from being complete: fields missing or of a wrong kind, and a track of no fields
    that a track has."""
    found = list(_schema_errors(header, HEADER, ""))
    if not found:
        try:
            header_track(header)
        except TypeError as error:
            found.append(f"track: {str(error).split('__init__() ')[-1]}")
        if header["recipe"]["steps"] > header["recipe"]["schedule_steps"]:
            found.append("recipe.steps exceeds recipe.schedule_steps")
    return found


def fork_errors(data: dict) -> list[str]:
    """What keeps a `fork` event from being complete."""
    return list(_schema_errors(data, FORK, ""))


def header_track(header: dict) -> Track:
    """The track as the header has it. TypeError for a field that tracks do not have."""
    return Track(**{**header["track"], "model": ModelConfig(**header["track"]["model"])})
