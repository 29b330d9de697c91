"""What scripts/bench_step.py is asked, and which option goes with which question: tables, without torch."""
from argparse import Namespace
from typing import NamedTuple

from speedrun.cli import Refusal

TOLERANCE = 2e-3   # nats, of the fast path's training losses


class Mode(NamedTuple):
    """One of the four: the functions of step.py that find it and put it in words, by name."""

    found_by: str
    lines: str
    takes: tuple[str, ...]   # options, in the order of `found_by`'s arguments after train_gpt.py's words
    steps: int = 50          # default of --steps
    torchrun: bool = False   # whether ranks that torchrun started may ask it


MODES = {   # by their flags; "measure" is what is asked without one
    "measure": Mode("measured", "step_lines", ("steps", "synthetic"), steps=20, torchrun=True),
    "check": Mode("checked", "check_lines", ("steps", "synthetic"), torchrun=True),
    "against": Mode("against", "ratio_lines", ("against", "steps", "pairs", "nproc")),
    "estimate": Mode("estimated", "estimate_lines", ("nproc",)),
}
FLAGS = ("against", "check", "estimate")
GOES_WITH = {   # option -> its modes, and what is said where it is given with another
    "pairs": (("against",), "--pairs goes with --against; otherwise ranks are started by torchrun"),
    "nproc": (("against", "estimate"),
              "--nproc goes with --against or --estimate; otherwise ranks are started by torchrun"),
    "synthetic": (("measure", "check", "estimate"),
                  "--synthetic: another script reads its own shards; leave it out"),
}


def settle(args: Namespace, world_size: int) -> None:
    """Set `args.mode` and the defaults that depend on it. Refusal where an option does not go with it, where
    a number is below 1, or where `world_size` ranks ask what one process answers."""
    flags = [name for name in FLAGS if getattr(args, name)]
    if len(flags) > 1:
        raise Refusal(f"--{flags[0]} and --{flags[1]}: ask for one of them", code=2)
    args.mode = flags[0] if flags else "measure"
    mode = MODES[args.mode]
    for name, (modes, refusal) in GOES_WITH.items():
        if getattr(args, name) not in (None, False) and args.mode not in modes:
            raise Refusal(refusal, code=2)
    for name, default in dict(steps=mode.steps, pairs=4, nproc=1).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        if getattr(args, name) < 1:
            raise Refusal(f"--{name} {getattr(args, name)}: give at least 1", code=2)
    if world_size > 1 and not mode.torchrun:
        raise Refusal(f"--{args.mode} is not for torchrun; give --nproc", code=2)
