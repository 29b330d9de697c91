"""docs/findings.md from docs/findings.in.md: prose whose numbers are filled in from the studies' logs.

A placeholder is {{STUDY WHAT}} or {{STUDY CELL WHAT}}; CELL may be a contrast. WHAT is

    table, picture, cost, ranks, ranges  of the study
    loss, crossing, seconds              of a cell
    difference                           of a cell to its baseline, or of a contrast, with its interval
    below, above                         the verdict on a claim that this difference is below or above zero:
                                         holds, does not hold (its interval is on the other side of zero), or
                                         not shown at this scale (its interval holds zero)
    gain                                 minus the difference
    leverage-dead, activation-dead       the largest share of dead units of any step (of three or more), and
                                         the last; of a contrast the difference of the last ones, in points
    row-spread, orthogonality            of the update of the matrices into the MLP, at the last step

What has no logs yet reads "not run yet".
"""
import re

from speedrun import ROOT
from speedrun.cli import Refusal, near
from speedrun.stats import words

from .figures import final, worst
from .page import (
    NOT_RUN,
    cost_words,
    number,
    points,
    range_words,
    rank_words,
    share,
    table,
    unfinished,
)
from .study import Study

TEMPLATE, PAGE = ROOT / "docs" / "findings.in.md", ROOT / "docs" / "findings.md"
PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
HEAD = "<!-- Written by scripts/study.py from findings.in.md and the logs: edit that, not this. -->\n\n"


def render(template: str, load) -> str:
    """The template with its placeholders filled in; load(name) gives (Study, figures) of a study.

    Refusal for a placeholder that names nothing.
    """
    def fill(match) -> str:
        named = match[1].split()
        if len(named) not in (2, 3):
            raise Refusal(f"findings: {match[0]} is neither {{{{STUDY WHAT}}}} nor {{{{STUDY CELL WHAT}}}}")
        study, found = load(named[0])
        say = OF_STUDY.get(named[1]) if len(named) == 2 else OF_CELL.get(named[2])
        if say is None:
            known = OF_STUDY if len(named) == 2 else OF_CELL
            raise Refusal(f"findings: {match[0]}: unknown {named[-1]!r}; {near(named[-1], known)}")
        if len(named) == 2:
            return say(study, found)
        rows = {**found["cells"], **{label: row and dict(difference=row, dead={
            metric: of[label] for metric, of in found.get("dead", {}).items()})
            for label, row in found["contrasts"].items()}}
        if named[1] not in rows:
            raise Refusal(f"findings: {match[0]}: no cell {named[1]!r}; {near(named[1], rows)}")
        row = rows[named[1]] or {}
        return say(row) or (unfinished(row) if "diverged" in row else NOT_RUN)
    return HEAD + PLACEHOLDER.sub(fill, template)


def text(load) -> str:
    """What docs/findings.md should hold."""
    return render(TEMPLATE.read_text(encoding="utf-8"), load)


def _picture(study: Study, found: dict) -> str:
    if not any("val_loss" in row for row in found["cells"].values()):
        return NOT_RUN
    return f"![{study.name}](../records/studies/{study.name}/picture.png)"


def _table(study: Study, found: dict) -> str:
    return table(study, found).replace("](../../../", "](../")


def _difference(row: dict, sign: int = 1) -> str:
    found = row.get("difference")
    if found is None:
        return ""
    ends = [None, None] if found["low"] is None else sorted((sign * found["low"], sign * found["high"]))
    return words.interval(dict(mean=sign * found["mean"], low=ends[0], high=ends[1]), "+.4f")


def _verdict(row: dict, sign: int) -> str:
    """On the claim that sign * difference is above zero."""
    found = row.get("difference")
    if found is None:
        return ""
    if found["low"] is None or found["low"] <= 0 <= found["high"]:
        return "not shown at this scale"
    return "holds" if sign * found["mean"] > 0 else "does not hold"


def _dead(row: dict, metric: str) -> str:
    if row.get("dead", {}).get(metric):
        return points(row["dead"][metric])
    if not (found := row.get("diagnostics")) or not found[metric]:
        return ""
    top = worst(found, metric)
    most = f"{share(top[0])} at step {top[1]}, " if top else ""
    return most + f"{share(final(found, metric))} at the end"


def _last(row: dict, metric: str) -> str:
    return number(final(row["diagnostics"], metric)) if row.get("diagnostics") else ""


OF_STUDY = dict(table=_table, picture=_picture, cost=lambda study, found: cost_words(found),
                ranks=lambda study, found: rank_words(found["ranks"]) if found.get("ranks") else NOT_RUN,
                ranges=lambda study, found: "; ".join(map(range_words, found.get("ranges", ()))) or NOT_RUN)
OF_CELL = {
    "loss": lambda row: words.mean_and_sd(row["val_loss"], ".4f") if "val_loss" in row else "",
    "crossing": lambda row: words.crossing(row["crossing_step"]) if row.get("crossing_step") else "",
    "seconds": lambda row: f"{row['seconds']['mean']:.0f}" if row.get("seconds") else "",
    "difference": _difference, "gain": lambda row: _difference(row, -1),
    "below": lambda row: _verdict(row, -1), "above": lambda row: _verdict(row, 1),
    "leverage-dead": lambda row: _dead(row, "leverage_dead"),
    "activation-dead": lambda row: _dead(row, "activation_dead"),
    "row-spread": lambda row: _last(row, "row_spread"),
    "orthogonality": lambda row: _last(row, "orthogonality")}
