"""The file of a study, records/studies/NAME/study.toml, read and checked; docs/studies.md has its format."""
import json
import re
import tomllib
from pathlib import Path

from speedrun import ROOT
from speedrun.cli import Refusal, near
from speedrun.text import printable

from .study import Cell, Contrast, Study, Tuning, resolved

FOLDER = ROOT / "records" / "studies"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PICTURES = ("losses", "growth", "death", "ranks")


def names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/study.toml"))


def read_study(name: str, records: Path = ROOT / "records") -> Study:
    """The study of this name, or of a .toml file; its logs lie under `records`. Refusal (exit 2) for one
    that cannot be run, naming the file and the field."""
    path = Path(name) if name.endswith(".toml") else FOLDER / name / "study.toml"
    if not path.is_file():
        hint = "name a .toml file that is there" if name.endswith(".toml") else near(name, names())
        raise Refusal(f"unknown study {printable(name)!r}; {hint}", code=2)
    try:
        name = path.parent.name if path.name == "study.toml" else path.stem
        return _study(name, tomllib.loads(path.read_text(encoding="utf-8")), records)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{printable(path)} is no TOML: {error}; fix it there", code=2) from None
    except Refusal as refusal:
        raise Refusal(f"{printable(path)}: {refusal}", code=2) from None


def _take(table: dict, where: str, **fields) -> dict:
    """name -> value of each field, (type, default) or a type where it must be there."""
    found = {}
    for name, shape in fields.items():
        kind, *default = shape if isinstance(shape, tuple) else (shape,)
        value = table.get(name, default[0] if default else None)
        if name not in table and not default:
            raise Refusal(f"{where} has no `{name}`")
        if name in table and not _is(value, kind):
            raise Refusal(f"{where}: {name} = {printable(value, 60)!r} is no {KINDS[kind]}")
        found[name] = value
    if unknown := set(table) - set(fields):
        name = sorted(unknown)[0]
        raise Refusal(f"{where}: unknown field {name!r}; {near(name, fields)}")
    return found


KINDS = {str: "text", float: "number", dict: "table", list: "list of tables", "seeds": "list of seeds, each "
         "once and none negative", "numbers": "list of numbers, at least one", "pair": "list of two labels",
         "ranges": "list of pairs, lowest and highest"}


def _is(value, kind) -> bool:
    each = value if isinstance(value, list) else []
    if kind == "seeds":
        return bool(each) and len(set(map(str, each))) == len(each) and all(
            type(k) is int and k >= 0 for k in each)
    if kind == "numbers":
        return bool(each) and all(type(x) in (int, float) for x in each)
    if kind == "ranges":
        return isinstance(value, list) and all(
            _is(pair, "numbers") and len(pair) == 2 and pair[0] < pair[1] for pair in each)
    if kind == "pair":
        return len(each) == 2 and all(isinstance(x, str) for x in each)
    return type(value) in (int, float) if kind is float else isinstance(value, kind)


def _study(name: str, table: dict, records: Path) -> Study:
    found = _take(table, "the file", question=str, track=str, seeds="seeds", cells=list,
                  baseline=(str, None), device=(str, None), overrides=(dict, {}), contrasts=(list, []),
                  tuning=(dict, None), picture=(str, "losses"), axis=(str, ""), over=(str, ""),
                  note=(str, ""), ranges=("ranges", []))
    if found["picture"] not in PICTURES:
        raise Refusal(f"picture = {found['picture']!r}; {near(found['picture'], PICTURES)}")
    if found["device"] not in (None, "cpu"):
        raise Refusal(f"device = {printable(found['device'])!r}; say \"cpu\", or leave it out")
    common = _flat(found["overrides"], "overrides")
    cells = [_cell(row, common, found, records) for row in found["cells"]]
    labels = [cell.label for cell in cells]
    contrasts = [_contrast(row) for row in found["contrasts"]]
    for label in (of := [*labels, *(contrast.label for contrast in contrasts)]):
        if of.count(label) > 1:
            raise Refusal(f"two cells or contrasts are called {label!r}; give each a label of its own")
    named = [(f"cell {cell.label}", [cell.baseline]) for cell in cells]
    named += [(f"contrast {each.label}", [*each.of, *each.minus]) for each in contrasts]
    for where, others in named:
        for label in others:
            if label is not None and label not in labels:
                raise Refusal(f"{where} names the cell {label!r}; {near(label, labels)}")
    for cell in cells:
        if cell.logs is None:
            cell.plan  # so that a wrong cell is refused before any is run
        if cell.line is not None and cell.x is None:
            raise Refusal(f"cell {cell.label} has a `line` and no `x`, its place on it; give it one")
    as_given = {key: found[key] for key in ("seeds", "track", "device", "picture", "axis", "over", "ranges")}
    return Study(name=name, question=found["question"].strip(), note=found["note"].strip(), cells=cells,
                 contrasts=contrasts, tuning=found["tuning"] and _tuning(found["tuning"], found["track"]),
                 folder=records / "studies" / name, **as_given)


def _cell(row, common: list, study: dict, records: Path) -> Cell:
    if not isinstance(row, dict):
        raise Refusal("cells are tables: [[cells]]")
    label = row.get("label")
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise Refusal(f"a cell is called {printable(label)!r}: give it a `label` of letters, digits and .-_")
    cell = _take(row, f"cell {label}", label=str, recipe=(str, None), logs=(str, None), baseline=(str, None),
                 overrides=(dict, {}), x=(float, None), line=(str, None), seeds=("seeds", study["seeds"]))
    if (cell["recipe"] is None) == (cell["logs"] is None):
        raise Refusal(f"cell {label}: give either a `recipe` to run, or the folder of its `logs`")
    logs = cell["logs"] and ROOT / cell["logs"]
    if logs and not logs.resolve().is_relative_to(ROOT):
        raise Refusal(f"cell {label}: logs = {cell['logs']!r} is outside the repository; copy them into it")
    if logs and not logs.is_dir() and not logs.is_relative_to(ROOT / "records" / "studies"):
        raise Refusal(f"cell {label}: there is no folder {cell['logs']}")
    overrides = [*common, *_flat(cell["overrides"], f"cell {label}: overrides")]
    return Cell(label=label, recipe=cell["recipe"], logs=logs, baseline=cell["baseline"] or study["baseline"],
                seeds=cell["seeds"], overrides=overrides, x=cell["x"], line=cell["line"],
                track=study["track"], tuning=records / "tuning")


def _contrast(row) -> Contrast:
    if not isinstance(row, dict):
        raise Refusal("contrasts are tables: [[contrasts]]")
    return Contrast(**_take(row, "a contrast", label=str, of="pair", minus=("pair", [])))


def _flat(table: dict, where: str) -> list[tuple[str, str, str]]:
    """(kind, dotted field, text) of nested tables."""
    found = []

    def walk(value, parts):
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, [*parts, name])
        else:
            found.append((parts[0], ".".join(parts[1:]), _text(value)))

    for kind, fields in table.items():
        if kind not in ("track", "recipe") or not isinstance(fields, dict):
            raise Refusal(f"{where}: {printable(kind)} is neither `track.FIELD` nor `recipe.FIELD`")
        walk(fields, [kind])
    return found


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tuning(table: dict, track: str) -> Tuning:
    if not _is(table.get("seeds"), "seeds"):
        raise Refusal("tuning has no list of `seeds`; name others than the study's")
    grids = {}
    for recipe, grid in table.items():
        if recipe == "seeds":
            continue
        if not isinstance(grid, dict):
            raise Refusal(f"tuning.{recipe} is no table of `lr` and `weight_decay`")
        resolved(recipe, track)
        grids[recipe] = _take(grid, f"tuning.{recipe}", lr="numbers", weight_decay="numbers")
    if not grids:
        raise Refusal("tuning names no recipe; give each a table of `lr` and `weight_decay`, or leave it out")
    budgets = {recipe: len(grid["lr"]) + len(grid["weight_decay"]) - 1 for recipe, grid in grids.items()}
    if len(set(budgets.values())) > 1:
        raise Refusal("tuning: the recipes have unequal budgets of runs, "
                      f"{', '.join(f'{r} {n}' for r, n in budgets.items())}; give each equally many")
    return Tuning(table["seeds"], grids)
