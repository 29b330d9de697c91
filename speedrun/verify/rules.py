"""The list of the rules, and their page, docs/rules.md, from their docstrings."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import agreement, events, folder, header, locks


@dataclass(frozen=True)
class Rule:
    """One rule: `check(subject)` yields (line, what is wrong), line 0 for the whole.

    of: the subject. "text": a Log as it was read; "log": the LoggedRun of one with a complete header;
    "folder": a Folder whose logs keep every rule; "evidence": the same, where it keeps those of a folder.
    """

    name: str
    of: str
    check: Callable[..., Iterator]

    @property
    def words(self) -> str:
        """What the rule asks, on one line."""
        return " ".join(self.check.__doc__.split())


RULES = [
    Rule("log", "text", events.whole),
    Rule("header", "text", header.complete),
    Rule("format", "log", header.format_),
    Rule("source", "log", header.sources),
    Rule("sha256", "log", header.hashes),
    Rule("track", "log", header.track),
    Rule("command", "log", header.command),
    Rule("recipe", "log", header.recipe),
    Rule("data", "log", header.data),
    Rule("git", "log", header.git),
    Rule("status", "log", events.status),
    Rule("seeds", "log", events.seeds),
    Rule("order", "log", events.order),
    Rule("fork", "log", events.fork),
    Rule("warmup", "log", events.warmup),
    Rule("grid", "log", events.grid),
    Rule("losses", "log", events.losses),
    Rule("times", "log", events.times),
    Rule("outcome", "log", events.outcomes),
    Rule("clock", "log", events.clock),
    Rule("record", "folder", folder.same_record),
    Rule("seeds", "folder", folder.every_seed),
    Rule("folder", "folder", folder.location),
    Rule("evidence", "evidence", folder.evidence),
]
HEAD = """# The rules of verification

Written by `python scripts/verify.py --rules` from the docstrings of the rules; edit those. `verify.py` says
one of three things of a log, and of a record, which is a folder of logs:

- it **does not verify**: a line for each rule that is broken, with the line of the log; exit code 1;
- it is **consistent**: it keeps every rule, and is on no board. Custom tracks, overridden recipes and forks
  are that by nature; any other is where a lock does not hold, or is not known, and the line says which;
- it **stands**: every lock holds. `--explain` prints each, and how it was checked.
"""
LOCKS = """## The locks

A forger can compute every hash of a log again, so that rules show consistency alone. The locks tie a log to
what a forger does not hold: this repository's history, a part of the training done again, other records.
What a lock cannot ask is "not known", never "holds": a shallow clone lacks history, a machine without torch
cannot run optimizers/. No record is excepted for its age: those that were made before a lock existed were
held to it when it came.

| lock | what it asks |
|---|---|"""
PARTS = {("text", "log"): "A log", ("folder", "evidence"): "A folder of logs"}


def rules_of(*subjects: str) -> list[Rule]:
    """The rules whose subject is one of these, in the order of the list."""
    return [rule for rule in RULES if rule.of in subjects]


def page() -> str:
    """docs/rules.md."""
    parts = [HEAD]
    for subjects, title in PARTS.items():
        rows = [f"| `{rule.name}` | {rule.words} |" for rule in rules_of(*subjects)]
        parts.append("\n".join([f"## {title}", "", "| rule | what it asks |", "|---|---|", *rows, ""]))
    asked = {**locks.LOCKS, "agreement": agreement.conflicts}
    rows = [f"| `{name}` | {' '.join(lock.__doc__.split())} |" for name, lock in asked.items()]
    return "\n".join([*parts, LOCKS, *rows, ""])
