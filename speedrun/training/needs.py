"""What scripts/run.sh must know of a command line of train_gpt.py: how many processes, and what to fetch.

Prints the number of processes, then the fetch command one word a line (so that paths may hold spaces), which
is left out where nothing is missing. Bad arguments end in the trainer's own line and exit code.
"""
import sys

from speedrun.cli import Refusal, command

EXAMPLE = "example: python -m speedrun.training.needs --track laptop"


@command
def main(argv: list[str]) -> int:
    """Print the answer; the exit code."""
    if {"-h", "--help"} & set(argv):
        print(f"usage: needs.py [ARGS of train_gpt.py]\n{__doc__}\n{EXAMPLE}")
        return 0
    import torch

    from data import shards

    from .plan import open_streams, parse
    from .resume import plan_of
    plan, missing = plan_of(parse, argv), False
    try:
        open_streams(plan)
    except Refusal:  # the trainer will say it again where fetching cannot fix it
        missing = not plan.args.data_dir
    print(1 if plan.device == "cpu" else torch.cuda.device_count())
    if missing:
        print(*shards.fetch_words(plan.track, plan.recipe.steps).split(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.argv[0] = "train_gpt.py"  # whose arguments these are, so that is who answers
    sys.exit(main())
