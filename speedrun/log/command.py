"""A command line of train_gpt.py: its flags, declared once, and how one is read, written and logged.

The trainer's parser is made of FLAGS. A log's header holds what `Command.logged` writes; `Command.read` reads
it, and a replay or `verify.py --rerun` starts what `Command.training` leaves of it. A new flag is added here
alone, with whether it may change a loss, and reaches all of them.
"""
import shlex
from argparse import Namespace
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from speedrun.cli import Parser, Refusal
from tracks import FINEWEB, PRESETS, TRACKS

PROGRAM = "train_gpt.py"


@dataclass(frozen=True, eq=False)
class Flag:
    """A flag of train_gpt.py. `options` are those of argparse's add_argument.

    loss: it may change a loss, or the steps at which one is logged.
    header: what it decides is in a log's header too, beside the command.
    folder: its value is a folder of the user's own, which no log holds.
    """

    name: str
    help: str                # {recipes}: their names, which only the trainer knows
    loss: bool = False
    header: bool = False
    folder: bool = False
    options: dict = field(default_factory=dict)

    @property
    def dest(self) -> str:
        """Its name among parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")


TRUE = dict(action="store_true")
FOLDER = dict(type=Path, metavar="D")
FLAGS = (
    Flag("--track", f"{', '.join([*TRACKS, *PRESETS])} (default: {FINEWEB.name} on CUDA; laptop)",
         loss=True, header=True),
    Flag("--recipe", "{recipes} (default: aurora)", loss=True, header=True, options=dict(default="aurora")),
    Flag("--seeds", "declared before the run", loss=True, header=True,
         options=dict(type=int, nargs="+", default=[0], metavar="K")),
    Flag("--steps", "stop early; the schedule stays as it is", loss=True, header=True,
         options=dict(type=int, metavar="N")),
    Flag("--log-dir", "default: logs/<time>_<track>_<recipe>", folder=True, options=FOLDER),
    Flag("--data-dir", "the folder of the shards", folder=True, options=FOLDER),
    Flag("--val-every", "validate every N steps too, off the clock", loss=True,
         options=dict(type=int, metavar="N")),
    Flag("--checkpoint-every", "steps, off the clock (default: 250)",
         options=dict(type=int, default=250, metavar="N")),
    Flag("--resume", "go on with the run that stopped in this log folder", folder=True, options=FOLDER),
    Flag("--device", "default: cuda where there is one", loss=True, header=True,
         options=dict(choices=("cpu", "cuda"))),
    Flag("--fast", "chunked loss, one compiled block, overlap; see docs/speed.md", loss=True, options=TRUE),
    Flag("--save", "write the final weights of each seed", options=TRUE),
    Flag("--wandb", "log to Weights & Biases too", options=TRUE),
    Flag("--allow-custom", "allow --track.FIELD; on no board", loss=True, header=True, options=TRUE),
    Flag("--dry-run", "say what would run, and stop", options=TRUE),
    Flag("--list", "list tracks and recipes, and stop", options=TRUE),
    Flag("--json", "print one JSON object; progress goes to stderr", options=TRUE),
)


def add_flags(parser: Parser, recipes: str = "") -> None:
    """Every flag of train_gpt.py; `recipes` is for the help."""
    for flag in FLAGS:
        parser.add_argument(flag.name, help=flag.help.format(recipes=recipes), **flag.options)


def split_overrides(words: list[str]) -> tuple[list[tuple[str, str, str]], list[tuple[str, bool]]]:
    """Of words that are no flags: the overrides, (kind, dotted field, text) of each `--recipe.field text` or
    `--track.field=text`; and every other word, with whether it is a field that lacks its value."""
    found, wrong, left = [], [], list(words)
    while left:
        flag, equals, text = left.pop(0).partition("=")
        kind, _, dotted = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or kind not in ("recipe", "track") or not dotted:
            wrong.append((flag, False))
        elif not equals and (not left or left[0].startswith("--")):
            wrong.append((flag, True))
        else:
            found.append((kind, dotted, text if equals else left.pop(0)))
    return found, wrong


@dataclass(frozen=True)
class Command:
    """A command line of train_gpt.py. `words` are its arguments as they are given (of a flag given twice the
    last one counts); `unreadable` says why a text is no such command."""

    words: tuple[str, ...] = ()
    unreadable: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "words", tuple(map(str, self.words)))

    @classmethod
    def read(cls, text: str) -> "Command":
        """The command in a log's header, whatever the text is: see `wrong`."""
        try:
            words = shlex.split(text)
        except ValueError as error:  # a quote that is not closed
            return cls((), str(error))
        return cls(tuple(words[1:]), None if words[:1] == [PROGRAM] else f"it does not start {PROGRAM}")

    @property
    def wrong(self) -> str | None:
        """Why train_gpt.py cannot have been started like this; None where it can."""
        return self.unreadable or _parsed(self.words, FLAGS).wrong

    @property
    def args(self) -> Namespace:
        """The value of every flag, the default of those that are not given or cannot be read."""
        return _parsed(self.words, FLAGS).args

    @property
    def given(self) -> dict:
        """`dest` -> value of the flags that are given."""
        return _parsed(self.words, FLAGS).given

    @property
    def overrides(self) -> tuple[tuple[str, str, str], ...]:
        """(kind, dotted field, text) of each overridden field, in the order in which they apply; --steps, one
        of the recipe's, is the last."""
        return _parsed(self.words, FLAGS).overrides

    def differs(self, other: "Command") -> str | None:
        """The first flag that may change a loss, that headers do not hold, and that has another value in
        `other`; None where there is none."""
        return next((flag.name for flag in FLAGS if flag.loss and not flag.header
                     and getattr(self.args, flag.dest) != getattr(other.args, flag.dest)), None)

    def plus(self, *words, overrides=(), **values) -> "Command":
        """With these words added, these flags (`dest` -> value; None and False: not given) and overrides."""
        names = {flag.dest: flag.name for flag in FLAGS}
        single = [word for dest, value in values.items() for word in _written(names[dest], value)]
        fields = [f"--{kind}.{dotted}={text}" for kind, dotted, text in overrides]
        # Lists last: argparse takes a field with a space in its text for one more of their items.
        lists = [str(word) for dest, value in values.items() if isinstance(value, list | tuple)
                 for word in (names[dest], *value)]
        return Command((*self.words, *words, *single, *fields, *lists), self.unreadable)

    def training(self, **values) -> "Command":
        """What of it may change a loss, and nothing that is not known; `values` in place of its own."""
        kept = {flag.dest: self.given[flag.dest] for flag in FLAGS
                if flag.loss and flag.dest in self.given and flag.name != "--steps"}  # steps: an override
        return Command().plus(**kept | values, overrides=self.overrides)

    def without_folders(self) -> "Command":
        """Without the flags that name the user's own folders."""
        return Command(tuple(self._shown(folders=False)), self.unreadable)

    def logged(self) -> str:
        """The text for a log's header, to be pasted into a shell: DIR for the user's own folders."""
        return shlex.join([PROGRAM, *self._shown(folders=True)])

    def _shown(self, folders: bool):
        own, words = {flag.name for flag in FLAGS if flag.folder}, iter(self.words)
        for word in words:
            name, equals, _ = word.partition("=")
            if name not in own:
                yield word
                continue
            if not equals:
                next(words, None)
            if folders:
                yield from [f"{name}=DIR"] if equals else [name, "DIR"]


def _written(name: str, value) -> list[str]:
    """The words of a flag of at most one value, none of any other."""
    if value is None or isinstance(value, bool | list | tuple):
        return [name] * (value is True)
    if str(value).startswith("-"):  # apart, it would be read as a flag of its own
        return [f"{name}={value}"]
    return [name, str(value)]


@lru_cache(maxsize=4)
def _parser(flags: tuple[Flag, ...]) -> Parser:
    parser = Parser(prog=PROGRAM, add_help=False)
    add_flags(parser)
    return parser


class _Parsed(NamedTuple):
    args: Namespace
    given: dict
    overrides: tuple
    wrong: str | None


@lru_cache(maxsize=1000)
def _parsed(words: tuple[str, ...], flags: tuple[Flag, ...]) -> _Parsed:
    parser, absent = _parser(flags), object()
    args = Namespace(**{flag.dest: parser.get_default(flag.dest) for flag in flags})
    try:
        found, rest = parser.parse_known_args(words, Namespace(**dict.fromkeys(vars(args), absent)))
    except Refusal as refusal:
        return _Parsed(args, {}, (), str(refusal))
    given = {dest: value for dest, value in vars(found).items() if value is not absent}
    overrides, others = split_overrides(rest)
    if given.get("steps") is not None:
        overrides.append(("recipe", "steps", str(given["steps"])))
    # A flag that is not known may change a loss. Other stray words ask for nothing.
    wrong = next((f"{word} needs a value" if field else f"unknown argument {word!r}"
                  for word, field in others if word.startswith("-")), None)
    return _Parsed(Namespace(**vars(args) | given), given, tuple(overrides), wrong)
