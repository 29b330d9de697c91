"""Others' results beside the board: the rows of modded-nanogpt's track 3, by their mean crossing step."""
import json
import re
from dataclasses import dataclass
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.stats.crossing import mean_crossing
from speedrun.text import printable

from . import track3
from .page import crossing, escape, seeds, table

OTHERS = """## Others' results: modded-nanogpt's track 3

Not records of this repository, and not verified by its rules: figures that `scripts/ingest.py` computed
from the public logs of [modded-nanogpt]({source}), commit
{commit} of {date}, whose conditions are those of `fineweb-124m`. The official step is the one that
its README claims, with the row's place by it in brackets. The rows are in order of their mean crossing
step, with its 95 % interval in brackets.

Of {pairs} pairs of rows with different official steps, {reversed} cross in the other order, and of
{overlap} more the 95 % intervals overlap, so that these figures do not show which is ahead; {tied} pairs
have the same official step. A row that averages weights at its last step only crosses just before it by
construction. † (3.28 - mean) sqrt(n) does not reach 0.004 in its logs. The rows ran on different
machines, so their seconds would say nothing about the optimizers."""


########################################
#              The ranking             #
########################################


@dataclass
class Other:
    """A row of modded-nanogpt's track 3 with its mean crossing step."""

    row: dict                  # of records/reference/track3.json
    crossing: dict | None      # as mean_crossing; None where its logs do not show the crossing
    official_place: int        # by official step; equal steps share a place
    place: int | None = None   # by mean crossing step


def others(reference: dict) -> list[Other]:
    """The rows of records/reference/track3.json by mean crossing step, after them those without.

    A run whose first validation is below the target already does not show where it crossed.
    """
    target, rows, last, found = reference["target"], reference["rows"], float("inf"), []
    for row in rows:
        series = track3.series(row)
        seen = series and all(points[0].val_loss > target for points in series.values())
        crosses = mean_crossing(series, target) if seen else None
        crosses = crosses if crosses and crosses["mean"] is not None else None
        found.append(Other(row, crosses, 1 + sum(other["step"] < row["step"] for other in rows)))
    found.sort(key=lambda o: (o.crossing["mean"] if o.crossing else last, o.row["step"], o.row["row"]))
    for place, other in enumerate(found, 1):
        other.place = place if other.crossing else None
    return found


def reversals(found: list[Other]) -> dict:
    """How far the two orders of rows agree, over the pairs of rows with a crossing step each.

    pairs: with different official steps; reversed: of these, those that cross in the other order; overlap:
    those that cross in the same order with 95 % intervals that overlap, or without intervals; tied: pairs
    with the same official step.
    """
    counts = dict(pairs=0, reversed=0, overlap=0, tied=0)
    shown = [other for other in found if other.crossing]
    for i, early in enumerate(shown):  # in order of crossing
        for late in shown[i + 1:]:
            if early.row["step"] == late.row["step"]:
                counts["tied"] += 1
                continue
            counts["pairs"] += 1
            high, low = early.crossing["high"], late.crossing["low"]
            if early.row["step"] > late.row["step"]:
                counts["reversed"] += 1
            elif high is None or low is None or high >= low:
                counts["overlap"] += 1
    return counts


########################################
#               In words               #
########################################


def read_others(path: Path) -> str:
    """The part of others' results from the file of scripts/ingest.py; "" where there is none. Refusal for a
    broken one."""
    if not path.exists():
        return ""
    try:
        return others_section(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise Refusal(f"{printable(path)} is not what scripts/ingest.py writes; run it again") from None


def others_section(reference: dict) -> str:
    """The part of others' results, from records/reference/track3.json."""
    columns = ["place ", "row ", "recipe", "mean crossing step", "official step", "n", "hardware"]
    found, cells = others(reference), []
    for other in found:
        row, n = other.row, seeds(other.row["n"], other.crossing)
        n += f" of {row['claimed_n']:d} claimed" if row["n"] != row["claimed_n"] else ""
        cells.append([str(other.place or "-"), f"{row['row']:d}", escape(row["name"]),
                      crossing(other.crossing) if other.crossing else "not in its logs",
                      f"{row['step']:d}{'' if row['passes'] else '†'} ({other.official_place})", n,
                      " and ".join(map(hardware, row["hardware"]))])
    text = OTHERS.format(source=track3.SOURCE, commit=escape(str(reference["commit"])[:10]),
                         date=escape(reference["date"]), **reversals(found))
    notes = [f"- row {row['row']}: {escape('; '.join(row['deviations']), 400)}"
             for row in sorted(reference["rows"], key=lambda row: row["row"]) if row["deviations"]]
    notes = ["Where the logs are not what the row claims:", "\n".join(notes)] if notes else []
    return "\n\n".join([text, table(columns, cells), *notes])


def hardware(where: dict) -> str:
    """"8x H100", without maker and memory; "not said" where the logs do not name it."""
    if where["gpu"] is None:
        return "not said"
    name = re.sub(r"^NVIDIA |[ -]\d+GB( HBM\d\w*)?", "", str(where["gpu"]))
    return f"{where['world_size']:d}x {escape(name)}"
