"""A verdict in words."""
from speedrun.stats.planning import MOST_LOOKS, naive_error
from speedrun.stats.rule import LEVEL
from speedrun.text import printable

from .claim import shortfall
from .verdict import Verdict


def summary(verdict: Verdict) -> str:
    """The line of a log or record that verifies: what it is, what it claims, and why it is on no board."""
    found = verdict.claim
    seeds = f"{found['n']} seed{'s' * (found['n'] > 1)}"
    recipe = f"{printable(found['track'])}, {printable(found['recipe'])}"
    line = f"{printable(verdict.path, 400)}: {verdict.outcome}: {recipe}, {seeds}{_claims(found)}"
    line += "; its code was not committed" * found["uncommitted"]
    return line if verdict.stands else f"{line}; on no board: {printable(verdict.why, 600)}"


def _claims(found: dict) -> str:
    if found["track"] == "custom" or found["target"] is None:
        why = "a custom track claims nothing" if found["track"] == "custom" else "the track has no target"
        return f", final loss {found['final']['mean']:.5f}; {why}"
    if found["step"] is None:
        return f"; no claim: {shortfall(found)}"
    line = f"; {found['target']} reached at step {found['step']}, mean {found['mean']:.5f}"
    line += f", p = {found['p']:.1e}{peeking(found['looks'])}"
    return line + (f", no time claim ({found['no_time']})" if found["no_time"] else
                   f", {found['seconds']:.1f} s on the training clock")


def explained(verdict: Verdict) -> list[str]:
    """Each lock of a record, and how it was checked."""
    return [f"  {lock}" for lock in verdict.locks] or ["  no lock is asked: it can be on no board"]


def peeking(looks: list[int]) -> str:
    """What a rule for one look is worth where seeds were declared log by log."""
    if len(looks) == 1:
        return ""
    error = f" is {naive_error(looks):.1e}, not {LEVEL:.1e}" if len(looks) <= MOST_LOOKS else " is larger"
    return (f" (declared in {len(looks)} logs: if each was begun after a look at those before, the rule's "
            f"error{error})")
