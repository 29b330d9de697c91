"""A command line of train_gpt.py as a log holds it."""
import re
import shlex
from functools import lru_cache
from types import SimpleNamespace

from speedrun.cli import Parser, Refusal


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


def command_line(argv: list[str]) -> str:
    """The command, with DIR for the user's own folders."""
    kept, words = ["train_gpt.py"], iter(argv)
    for word in words:
        if word in ("--log-dir", "--data-dir"):
            next(words, None)
            kept += [word, "DIR"]
        elif not word.startswith(("--log-dir=", "--data-dir=")):
            kept.append(word)
    return shlex.join(kept)
