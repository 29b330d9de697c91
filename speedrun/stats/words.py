"""Figures in words: a mean with its interval, which is of 95 %, a crossing step, a p.

`found` is what intervals.py and crossing.py give: a dict with `mean`, `low` and `high`, both ends None where
there is no interval. The board, the report, the studies and the experiments all write these words.
"""


def count(n: int, noun: str) -> str:
    """"1 seed", "5 seeds"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def ends(low: float, high: float, form: str, to: str = " to ") -> str:
    """"low to high"; form: of each number, as ".4f"."""
    return f"{low:{form}}{to}{high:{form}}"


def interval(found: dict | None, form: str, level: str = "", to: str = " to ") -> str:
    """"mean (low to high)", "mean" where there is no interval, "" where there is no mean either.

    form: of each number, as "+.4f". level: "95 % " where nothing around the text says so.
    """
    if found is None or found["mean"] is None:
        return ""
    bracket = "" if found["low"] is None else f" ({level}{ends(found['low'], found['high'], form, to)})"
    return f"{found['mean']:{form}}{bracket}"


def mean_and_sd(found: dict, form: str) -> str:
    """"mean (sd 0.0026)", without the bracket for one seed."""
    spread = "" if found["sd"] is None else f" (sd {found['sd']:{form}})"
    return f"{found['mean']:{form}}{spread}"


def crossing(found: dict) -> str:
    """A `mean_crossing` with its interval, and how many seeds cross where not all do."""
    words = interval(found, ",.1f")
    if found["crossed"] < found["n"]:
        words += f"{', ' * bool(words)}{found['crossed']} of {found['n']} seeds cross"
    return words


def p_value(p: float, least: str = "0.001", form: str = ".2g", equals: str = "") -> str:
    """`equals` and p, or "< least" below that."""
    return f"< {least}" if p < float(least) else f"{equals}{p:{form}}"
