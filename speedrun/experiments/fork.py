#!/usr/bin/env python3
"""Train what recipes share once, continue it under each of them, and test the differences, paired by seed.

For each seed a trunk, a run of the first variant, is trained up to step --at, where it leaves a checkpoint;
each variant goes on from there to its end. The variants may differ in what acts behind that step alone: the
schedule (cooldown_frac, schedule_steps, steps) and the start of a tail average. Every run is a process of
train_gpt.py with a log of its own in DIR. What is done already is kept: run the same command again after an
interruption, or with more seeds or variants. Further arguments go to every train_gpt.py.
"""
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import torch
except ImportError as missing:
    sys.exit(f"fork.py: {missing}; run scripts/setup.sh and then .venv/bin/python scripts/fork.py")

from speedrun import ROOT, launch
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.experiments.fork import Trunk, Variant, differs, own_header, prepare, read_variant, resumable
from speedrun.experiments.fork_figures import lines, weigh
from speedrun.log.command import Command
from speedrun.log.folder import lock_folder, the_log
from speedrun.log.format import Log
from speedrun.log.reader import read_log

EXAMPLE = """examples:
  python scripts/fork.py --trunk logs/cooldown --at 90 --track laptop \\
      --variants aurora aurora+cooldown_frac=0.5 --seeds 0 1 2 3 4
  python scripts/fork.py --trunk logs/cooldown --at 970 --variants aurora aurora+cooldown_frac=0.6 --nproc 8
"""
OURS = ("--recipe", "--log-dir", "--resume", "--list", "--dry-run", "--help")  # not for every train_gpt.py

########################################
#            Command line              #
########################################


def parse(argv: list[str]):
    """The arguments, with `common`: those of every train_gpt.py. Refusal (exit 2)."""
    parser = Parser(prog="fork.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--trunk", type=Path, required=True, metavar="DIR", help="the folder of the trunks and their forks")
    add("--at", type=int, required=True, metavar="STEP", help="the step at which the variants part")
    add("--variants", nargs="+", required=True, metavar="R", help="recipes, with overrides where wanted: "
        "aurora+cooldown_frac=0.5; the others are compared with the first")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="K", help="default: 0 1 2")
    add("--track", metavar="T", help="default: train_gpt.py's own")
    add("--nproc", type=int, metavar="N", help="processes of each run (default: one a GPU; 1 on a CPU)")
    add("--json", action="store_true", help="print one JSON object")
    args, args.common = parser.parse_known_args(argv)
    for word in args.common:
        flag = word.split("=")[0]
        if flag in OURS or flag.startswith("--recipe."):
            raise Refusal(f"{flag} is not for all the runs; write what differs into the variants, like "
                          "aurora+lr=0.02", code=2)
    if args.track:
        args.common = ["--track", args.track, *args.common]
    if args.nproc is not None and args.nproc < 1:
        raise Refusal(f"--nproc {args.nproc}: give at least 1", code=2)
    if len(set(args.variants)) < max(2, len(args.variants)):
        raise Refusal(f"--variants {' '.join(args.variants)}: name at least two, each once", code=2)
    args.trunk = args.trunk.absolute()
    return args


def read_variants(args) -> list[Variant]:
    """The variants, which agree up to step --at. Refusal (exit 2) that names where they do not."""
    variants = [read_variant(text, args.common, args.seeds) for text in args.variants]
    first = variants[0]
    if args.nproc is None:
        args.nproc = torch.cuda.device_count() if first.plan.device == "cuda" else 1
    for variant in variants:
        if not 0 < args.at < variant.plan.recipe.steps:
            raise Refusal(f"--at {args.at}: {variant.name} takes {variant.plan.recipe.steps} steps; fork at "
                          "a step between the first and the last", code=2)
        if apart := differs(first.plan.recipe, variant.plan.recipe, args.at):
            sooner = "fork earlier, or " * ("at step" in apart)
            raise Refusal(f"{first.name} (there) and {variant.name} (here) differ before step {args.at}, "
                          f"{apart}; {sooner}compare them by scripts/compare.py", code=2)
    return variants


########################################
#               The runs               #
########################################


def train(args, variant: Variant, command: Command, folder: Path, what: str) -> Log:
    """Run the command for the run in `folder`; its log. Refusal where it fails."""
    print(f"{what}: training", file=sys.stderr, flush=True)
    if "resume" in command.given:  # else it is in `common`
        command = command.plus(data_dir=variant.plan.args.data_dir)
    with open(args.trunk / "output.log", "a", encoding="utf-8") as file:
        code, why = launch.run(launch.command_words(ROOT / "train_gpt.py", command.words, args.nproc),
                               Path.cwd(), file.write)
    if code:
        raise Refusal(f"{what} failed: {why}; what it printed is in {args.trunk / 'output.log'}, what is "
                      "done is kept")
    log = read_log(the_log(folder))
    seed, = log.series
    last = log.series[seed][-1]
    print(f"{what}: val_loss {last.val_loss:.5f} at step {last.step}", file=sys.stderr, flush=True)
    return log


def grow(args, first: Variant, seed: int) -> Trunk:
    """The trunk of a seed, trained where it is not there. Refusal where what is there is no such trunk."""
    folder, what = args.trunk / f"seed{seed}", f"trunk of seed {seed}"
    log = read_log(the_log(folder)) if any(folder.glob("*.txt")) else None
    if log is not None and not log.header:  # killed within the header: nothing was trained
        log.path.unlink()
        log = None
    if log is None:
        # One step more than shared: the trainer keeps a checkpoint before a step, not behind the last.
        train(args, first, Command(first.words(without=("steps",))).plus(
            *args.common, seeds=[seed], steps=args.at + 1, checkpoint_every=often(args.at), log_dir=folder),
              folder, what)
    elif log.status != "complete":
        train(args, first, Command().plus(resume=folder), folder, what)
    return Trunk.of(folder, seed, args.at, first)


def often(at: int) -> int:
    """How many steps between a trunk's checkpoints, so that one is at step `at`."""
    return max((every for every in range(50, 251) if at % every == 0), default=at)


def go_on(args, variant: Variant, trunk: Trunk, headers: dict) -> Log:
    """The log of a variant's complete run from the trunk. headers: variant -> fork.own_header, once made."""
    seed, folder = trunk.seed, args.trunk / f"seed{trunk.seed}_{variant.name}"
    what = f"{variant.name} of seed {seed}"
    plan = read_variant(variant.name, args.common, [seed]).plan
    if folder.exists():
        log = read_log(the_log(folder))
        if not trunk.leads_to(log, plan) or (log.status == "complete" and log.problems):
            raise Refusal(f"{folder} holds another run than {variant.name} from step {trunk.at} of this "
                          "trunk; name another --trunk folder, or delete it and run this again")
        if log.status == "complete":
            return log
    if not (folder.exists() and resumable(folder)):
        if variant.name not in headers:
            headers[variant.name] = own_header(plan)
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, trunk, plan, dict(headers[variant.name], seeds=[seed]), args.nproc)
    log = train(args, variant, Command().plus(resume=folder), folder, what)
    for path in folder.glob("checkpoint_*"):  # each is as large as the model; the trunk's stay
        path.unlink()
    return log


@command
def main(argv: list[str]) -> int:
    """Train what is missing, and print what the runs show; the exit code is 0 whatever that is."""
    args = parse(argv)
    variants, headers = read_variants(args), {}
    trunks, forks = {}, {variant.name: {} for variant in variants}
    with lock_folder(args.trunk):
        for seed in args.seeds:
            trunk = grow(args, variants[0], seed)
            trunks[seed] = trunk.log
            for variant in variants:
                forks[variant.name][seed] = go_on(args, variant, trunk, headers)
    found = weigh(trunks, forks)
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
