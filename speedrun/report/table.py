"""A comparison of recipes as text: its figures in words, a table of Markdown, a sentence for each recipe."""
import re

from speedrun.stats import words


def figures(found: dict) -> dict[str, list[str]]:
    """What `comparison.compare` found as a table in words: name of the figure -> its text for each recipe."""
    rows, target = list(found["recipes"].values()), found["target"]
    reference, timed = found["reference"], found["no_time"] is None

    say = {"seeds": lambda row: str(len(row["seeds"])), "steps": lambda row: f"{row['steps']:,}",
           "final loss": lambda row: words.mean_and_sd(row["val_loss"], ".4f")}
    if target is not None:
        say["official step"] = lambda row: f"{row['official_step']:,}" if row["official_step"] else ""
        say["mean crossing step"] = lambda row: words.crossing(row["crossing_step"])
    if target is not None and timed:
        say["seconds to target"] = lambda row: words.crossing(row["crossing_seconds"])
    if timed:
        say["tokens per second"] = lambda row: f"{row['tokens_per_second']:,.0f}"
    if rows[1:]:
        say[f"loss minus {reference}'s"] = lambda row: words.interval(row.get("difference"), "+.4f")
    if any(row.get("crossing_difference") for row in rows):
        say[f"crossing step minus {reference}'s"] = \
            lambda row: words.interval(row.get("crossing_difference"), "+,.1f")
    return {name: [text(row) or "-" for row in rows] for name, text in say.items()}


def verdict(name: str, row: dict, reference: str) -> str:
    """One sentence: how this recipe's loss compares with the reference's at the end."""
    found = row["difference"]
    how = "paired by seed" if found["method"] == "paired" else "unpaired, by Welch's test"
    side = "below" if found["mean"] < 0 else "above"
    gap = f"{name} ends {abs(found['mean']):.4f} nats {side} {reference}"
    if found["low"] is None:
        return f"{gap}; one seed or equal losses tell nothing of the noise."
    if found["low"] < 0 < found["high"]:
        ends = words.ends(found["low"], found["high"], "+.4f")
        return (f"{name} and {reference} do not differ significantly: {found['mean']:+.4f} nats at the end "
                f"(95 % {ends}, {how}).")
    ends = words.ends(*sorted((abs(found["low"]), abs(found["high"]))), ".4f")
    return f"{gap} (95 % {ends}, {how}, p {words.p_value(found['p'], equals='= ')})."


########################################
#               Markdown               #
########################################


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown without a newline at its end; what its cells hold is Markdown."""
    text = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([text[0], "|---" * len(head) + "|", *text[1:]])


def _cell(text: str) -> str:
    """A text in a Markdown table: as it is where it is plain, else as code, which stays as it is."""
    if re.fullmatch(r"[\w .,+=#()%'-]+", text, re.ASCII):
        return text
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def markdown(found: dict) -> str:
    """The comparison as Markdown, the lowest loss first; intervals are 95 %. Warnings come below it."""
    columns = figures(found)
    rows = [(row["val_loss"]["mean"], [name, *texts]) for (name, row), *texts in
            zip(found["recipes"].items(), *columns.values())]
    table = markdown_table(["recipe", *map(_cell, columns)],
                           [list(map(_cell, cells)) for _, cells in sorted(rows)])
    return "\n".join([table, *[""] * bool(found["warnings"]), *found["warnings"]]) + "\n"
