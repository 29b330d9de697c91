"""train_gpt.py beside another trainer script: both as processes of their own, in turn, timed by their own
lines `step:<step>/<steps> val_loss:<nats> train_time:<time> step_avg:<ms>ms`.

That line is modded-nanogpt's and our log's alike: its clock stands still during validations, and all ranks
and devices are waited for before it is read. What lies before the first one is not counted: compilation,
autotuning, cold caches.

The script is shortened in a copy, by new values in four of its lines and nothing else. It finds the shards
as modded-nanogpt's do, under data/ in the folder that it runs in.
"""
import difflib
import hashlib
import re
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

from speedrun import launch
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import logs_in
from speedrun.log.reader import read_log
from speedrun.log.upstream import parse
from speedrun.text import printable

WINDOW = 10  # steps between validations, and before the first one that counts
NUMBERS = re.compile(r"\d[\d_]*(\s*\*\s*\d[\d_]*)*")


@dataclass(frozen=True)
class Length:
    """How long a run is: `steps` in all, a validation of `val_tokens` every `every`, at least two of them."""

    steps: int
    every: int
    val_tokens: int

    @classmethod
    def timing(cls, steps: int, tokens_per_step: int) -> "Length":
        """A run that times `steps` steps after the first window."""
        every = min(WINDOW, steps)
        return cls(every + steps, every, tokens_per_step)


def assignment(name: str) -> re.Pattern:
    """The line `name = value`, with or without a comment."""
    return re.compile(rf"^([ \t]*{name} = )([^#\n]*?)([ \t]*(?:#.*)?)$", re.MULTILINE)


def shortened(text: str, length: Length, tokens_per_step: int, name: str) -> str:
    """The script with another train_steps, val_step_freq, val_tokens and, where it differs, batch_size.

    Refusal where one of the lines is not there exactly once, or batch_size is no product of numbers.
    """
    batch = assignment("batch_size").findall(text)
    if len(batch) == 1 and not NUMBERS.fullmatch(batch[0][1]):
        raise Refusal(f"{name}: cannot read `batch_size = {printable(batch[0][1])}` as a product of numbers, "
                      "so its tokens per step are not known; write the number in a copy")
    wanted = dict(batch_size=tokens_per_step, val_tokens=length.val_tokens, train_steps=length.steps,
                  val_step_freq=length.every)
    for variable, value in wanted.items():
        found = assignment(variable).findall(text)
        if len(found) != 1:
            raise Refusal(f"{name}: {len(found)} lines `{variable} = ...`, 1 is needed: its run is shortened "
                          "by the values of batch_size, val_tokens, train_steps and val_step_freq, as "
                          "modded-nanogpt's train_gpt_simple.py names them; write them so in a copy")
        if not (NUMBERS.fullmatch(found[0][1]) and
                prod(int(number) for number in found[0][1].split("*")) == value):
            text = assignment(variable).sub(lambda line: f"{line[1]}{value}{line[3]}", text)
    return text


def difference(before: str, after: str) -> list[str]:
    """The changed lines, as a diff without context."""
    found = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    return [printable(line) for line in found if not line.startswith("@@")]


def ms_per_step(points: list, first: int) -> float:
    """Milliseconds a step between the validation at step `first` and the last."""
    start = next(point for point in points if point.step == first)
    return 1000 * (points[-1].train_time - start.train_time) / (points[-1].step - start.step)


def check(points: list, length: Length, what: str) -> list:
    """The validations; Refusal where those are missing that the time is read from."""
    steps = [point.step for point in points]
    if length.every not in steps or length.steps not in steps:
        raise Refusal(f"{what} printed no lines `step:{length.every}/{length.steps} val_loss:... "
                      f"train_time:... step_avg:...ms` and `step:{length.steps}/...`; its time is not known")
    return points


def run_ours(root: Path, words: list[str], length: Length, processes: int, folder: Path, what: str) -> list:
    """The validations of a run of train_gpt.py with these arguments, whose log goes to `folder`."""
    words = Command(words).plus(steps=length.steps, val_every=length.every, allow_custom=True, log_dir=folder,
                                overrides=[("track", "val_tokens", length.val_tokens)]).words
    code, why = launch.run(launch.command_words(root / "train_gpt.py", words, processes), Path.cwd(),
                           lambda line: None)
    logs = logs_in(folder)
    if code or not logs:
        raise Refusal(f"{what} failed: {why}")
    return check(next(iter(read_log(logs[0]).series.values())), length, what)


def run_theirs(script: Path, length: Length, processes: int, what: str) -> list:
    """The validations of a run of the script, in its own folder."""
    # Under torchrun even with one process: such scripts take their rank from its variables.
    words = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
             f"--nproc_per_node={processes}", str(script)]
    printed: list[str] = []
    code, why = launch.run(words, script.parent, printed.append)
    if code:
        raise Refusal(f"{what} failed: {why}")
    return check(next(iter(parse("".join(printed), script).series.values()), []), length, what)


def place(text: str, data_dir: Path, data: str, folder: Path) -> Path:
    """The script in a folder of its own, with the shards where it looks for them."""
    (folder / "theirs" / "data").mkdir(parents=True)
    (folder / "theirs" / "data" / data).symlink_to(data_dir.resolve(), target_is_directory=True)
    script = folder / "theirs" / "script.py"
    script.write_text(text)
    return script


def run_all(order: list[tuple[int, str]], root: Path, words: list[str], script: Path, length: Length,
            processes: int, folder: Path) -> list[dict]:
    """The runs of `order`, (pair, "ours" or "theirs"), one after the other; of each its ms a step, and those
    between its validations. `words`: our arguments; `script`: the shortened one, in its place."""
    done: list[dict] = []
    for number, (pair, side) in enumerate(order, 1):
        what = f"run {number} of {len(order)} ({'train_gpt.py' if side == 'ours' else 'the other script'})"
        if side == "ours":
            logs = folder / f"log_{number}"
            logs.mkdir()
            points = run_ours(root, words, length, processes, logs, what)
        else:
            points = run_theirs(script, length, processes, what)
        counted = [point for point in points if point.step >= length.every]
        windows = [ms_per_step([a, b], a.step) for a, b in zip(counted, counted[1:])]
        done.append(dict(side=side, pair=pair, ms=ms_per_step(points, length.every), windows=windows))
        print(f"{what}: {done[-1]['ms']:.2f} ms a step", file=sys.stderr, flush=True)
    return done


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
