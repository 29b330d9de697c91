"""Overrides by dotted name: `--recipe.lr 0.02`, `--track.model.mlp_ratio=8`."""
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

from optimizers.recipe import with_field
from speedrun.cli import Refusal, near
from speedrun.log.command import split_overrides


def read_overrides(rest: list[str], flags: list[str]) -> list[tuple[str, str, str]]:
    """(kind, dotted field, text) of each `--recipe.field text` or `--track.field=text`; Refusal for anything
    else, which names the near ones among the known `flags`."""
    found, others = split_overrides(rest)
    for flag, is_field in others[:1]:
        if is_field:
            raise Refusal(f"{flag} needs a value", code=2)
        field = f"--recipe.{flag.lstrip('-')}"
        hint = f"did you mean {field}?" if field in flags else near(flag, flags)
        raise Refusal(f"unknown argument {flag!r}; {hint}", code=2)
    return found


def override(target, kind: str, dotted: str, text: str):
    """A copy of the (nested) dataclass `target`, one field read from `text` by the field's declared type."""

    def change(declared, old):
        options = getattr(declared, "__args__", (declared,))  # of `float | None`; else the type itself
        if type(None) in options and text == "none":
            return None
        if bool in options:
            if text not in ("true", "false"):
                raise ValueError("it is true or false")
            return text == "true"
        for wanted, what in ((int, "a whole number"), (float, "a number"), (str, "text")):
            if wanted in options:
                try:
                    return wanted(text)
                except ValueError:
                    raise ValueError(f"it is {what}") from None
        inner = [f.name for f in fields(old)] if is_dataclass(old) else [type(part).__name__ for part in old]
        raise ValueError(f"it is a group: name a field of it, of {', '.join(inner)}")

    try:
        return with_field(target, dotted, change)
    except KeyError as error:
        part, known = error.args
        raise Refusal(f"--{kind}.{dotted}: no field {part!r}; {near(part, known)}", code=2) from None
    except ValueError as error:
        raise Refusal(f"--{kind}.{dotted} {text}: {error}", code=2) from None


def apply_overrides(track, recipe, overrides: list[tuple[str, str, str]], allow_custom: bool) -> tuple:
    """The track and recipe with each of `overrides`, checked; an overridden recipe is renamed, an overridden
    track is no official one and needs allow_custom. Refusal (exit 2) for what cannot be."""
    for kind, dotted, text in overrides:
        if kind == "recipe":
            recipe = replace(override(recipe, kind, dotted, text), name=f"{recipe.name}+{dotted}={text}")
        elif allow_custom:
            track = replace(override(track, kind, dotted, text), official=False)
        else:
            raise Refusal(f"--track.{dotted} changes what the track fixes; add --allow-custom, and the "
                          "run becomes `custom`, which stands on no board", code=2)
    if Path(track.data).name != track.data:  # a path of the user's own would stand in the log
        raise Refusal(f"--track.data {track.data}: give a folder's name under data/; --data-dir takes any "
                      "other folder", code=2)
    try:
        recipe.check()
        track.check()
    except ValueError as error:
        raise Refusal(str(error), code=2) from None
    return track, recipe
