#!/usr/bin/env python3
"""How long a training step of train_gpt.py takes on this machine, and where the time goes.

Takes the arguments of train_gpt.py; under torchrun it measures all ranks together. With --against FILE it
runs train_gpt.py and another trainer script in turn and gives the ratio of their times a step; with --check
it compares the losses of --fast with those of the plain path; with --estimate it computes, without a GPU,
what models need. Nothing is written to a log.
"""
import math
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces each start otherwise

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json

EXAMPLE = """examples:
  python scripts/bench_step.py --track laptop --recipe muon
  torchrun --standalone --nproc_per_node=8 scripts/bench_step.py --synthetic --fast --json > step.json
  python scripts/bench_step.py --fast --against train_gpt_simple.py --pairs 4
  python scripts/bench_step.py --estimate --nproc 8
All other arguments are those of train_gpt.py, see `train_gpt.py --help`.
"""
TOLERANCE = 2e-3           # nats, of the fast path's training losses
ESTIMATED = ("fineweb-124m", "350m", "1b")
CARD = 24 * 2**30          # bytes of the card that --estimate fits the micro-batch to
GIB = 2**30


def plan_of(words: list[str], steps: int | None = None):
    """train_gpt.py's plan of its own arguments; Refusal for those that mean nothing here."""
    import train_gpt
    plan = train_gpt.parse([*words, *([] if steps is None else ["--steps", str(steps)])])
    asked = vars(plan.args)
    for name in ("list", "dry_run", "resume", "save", "wandb", "log_dir"):
        if asked[name]:
            raise Refusal(f"--{name.replace('_', '-')} means nothing to a benchmark; leave it out", code=2)
    return plan


########################################
#           Here, or parity            #
########################################


def with_world(plan, work):
    """work(world) on the ranks that torchrun started, or on one."""
    import torch.distributed as dist

    from speedrun.training.world import join_world
    track = plan.track
    world = join_world(plan.device, track.tokens_per_step // track.context, track.val_tokens // track.context)
    # With the minute: a place that does not change for ten of them is taken for a rank that hangs.
    with world.together(lambda: f"the benchmark ({time.strftime('%H:%M')})"):
        found = work(world)
    if world.size > 1:
        dist.destroy_process_group()
    return found if world.rank == 0 else None


def measure(args, words: list[str]) -> int:
    """Print the figures of a step."""
    from speedrun.bench import measure
    parts = min(args.steps, 5)
    plan = plan_of(words, measure.steps_needed(args.steps, parts))
    found = with_world(plan, lambda world: measure.measure(plan, world, args.synthetic, args.steps, parts))
    if found:
        print_json(found) if args.json else print("\n".join(step_lines(found)))
    return 0


def step_lines(found: dict) -> list[str]:
    """The figures of a step for a person."""
    ms, where, total = found["ms"], found["hardware"]["name"], found["parts_total"]
    peak, mfu = found["peak_flops"], found["mfu"]
    of_peak = "n/a (the peak of this device is not in the table)" if mfu is None else (
        f"{mfu:.1%} of {peak / 1e12:,.0f} TFLOP/s, dense bfloat16")
    held = "tensors on the GPU" if found["hardware"]["device"] == "cuda" else "the process"
    lines = [f"{found['recipe']} on {found['track']}{', --fast' if found['fast'] else ''}: {found['steps']} "
             f"steps of {found['tokens_per_step']:,} {found['tokens']} tokens on {found['world_size']} x "
             f"{where}, torch {found['versions']['torch']}",
             f"time a step      {ms['median']:.2f} ms (median; 80 % in {ms['low']:.2f} to {ms['high']:.2f}; "
             f"mean {ms['mean']:.2f})",
             f"tokens/s         {found['tokens_per_second']:,.0f}",
             f"MFU              {of_peak}; {found['flops_per_token'] / 1e6:.1f} MFLOP a token",
             f"peak memory      {found['peak_memory'] / GIB:.2f} GiB, {held}; micro-batches of "
             f"{found['micro_batch']} sequences",
             f"warm-up          {found['warm_up']['seconds']:.1f} s",
             "", "in parts, the device waited for at each boundary     ms   share"]
    for name, value in found["parts"].items():
        lines.append(f"  {name.replace('_', ' '):46}{value:9.2f}{value / total:8.1%}")
    lines += [f"  {'sum':46}{total:9.2f}",
              f"  undisturbed less this: {found['beside']:+.2f} ms (overlap gained; or the cost of waiting)"]
    if found["world_size"] > 1:
        sent = ", ".join(f"{name.replace('_', ' ')} {size / 1e6:,.1f} MB"
                         for name, size in found["bytes_sent"].items())
        lines += [f"  collectives in flight for {found['communication_in_flight']:.2f} ms, hidden parts "
                  "included; times are those of rank 0", f"sent by a rank in a step: {sent}"]
    return lines


def check(args, words: list[str]) -> int:
    """Print how far the fast path's losses are from the plain path's; 1 where that is too far."""
    from speedrun.bench import measure
    plan = plan_of(words, args.steps)
    found = with_world(plan, lambda world: measure.parity(plan, world, args.synthetic, args.steps))
    if not found:
        return 0
    stands, again = found["largest"] < TOLERANCE, found["plain_again"]
    if args.json:
        print_json(dict(stands=stands, tolerance=TOLERANCE, **found))
    else:
        print(f"--fast against the plain path, {found['steps']} steps of {found['recipe']} on "
              f"{found['track']}: training losses differ by at most {found['largest']:.2e} nats (step "
              f"{found['at_step']}); {'below' if stands else 'NOT below'} {TOLERANCE}")
        if again is not None:
            undecided = not stands and again >= TOLERANCE
            print(f"two runs of the plain path differ by at most {again:.2e} (atomic sums)"
                  + "; so this does not decide whether the fast path is right" * undecided)
    return 0 if stands else 1


########################################
#         Beside another script        #
########################################


def against(args, words: list[str]) -> int:
    """Print how the times a step of another script and of train_gpt.py compare."""
    import torch

    from scripts.compare import order
    from speedrun.bench import against
    from speedrun.stats.ratio import time_ratio
    from speedrun.training.machine import hardware, software
    from speedrun.training.world import World
    if args.synthetic:
        raise Refusal("--synthetic: another script reads its own shards; leave it out", code=2)
    try:
        original = args.against.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--against {args.against}: cannot read this script ({error})", code=2) from None
    plan = plan_of(words)
    tokens = plan.track.tokens_per_step
    length = against.Length.timing(args.steps, tokens)
    ours = plan_of(words, length.steps)  # refuses what our own runs would
    text = against.shortened(original, length, tokens, args.against.name)
    enough_shards(ours, length.val_tokens)
    changed = against.difference(original, text)
    print("\n".join([f"{args.against.name} runs as a copy with these lines changed:", *changed]),
          file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench_step_") as folder:
        script = against.place(text, plan.data_dir, plan.track.data, Path(folder))
        runs = against.run_all(order("ours", "theirs", args.pairs), ROOT, words, script, length,
                                     args.nproc, Path(folder))
    by_side = {side: [run["ms"] for run in runs if run["side"] == side] for side in ("ours", "theirs")}
    found = dict(track=plan.track.label, recipe=plan.recipe.name, fast=plan.args.fast, steps=args.steps,
                 tokens_per_step=tokens, processes=args.nproc, file=args.against.name,
                 sha256=against.digest(original), changed=changed,
                 ratio=time_ratio(by_side["theirs"], by_side["ours"]), ms=by_side, runs=runs,
                 **software(), hardware=hardware(World(0, 1, torch.device(plan.device))))
    print_json(found) if args.json else print("\n".join(ratio_lines(found)))
    return 0


def enough_shards(plan, val_tokens: int) -> None:
    """Refusal where the shards do not hold the steps of a run. Ours would begin them anew, on a custom track;
    the other script would fail, after our run."""
    from dataclasses import replace

    from speedrun.training.plan import open_streams
    plan = replace(plan, track=replace(plan.track, val_tokens=val_tokens))
    held, steps = len(open_streams(plan)[0]), plan.recipe.steps
    if held < steps:
        raise Refusal(f"the shards in {plan.data_dir} hold {held} batches of {plan.track.tokens_per_step} "
                      f"tokens; a run takes {steps}, and the other script cannot begin them anew; give fewer "
                      "--steps, or more shards")


def ratio_lines(found: dict) -> list[str]:
    """The comparison for a person."""
    from speedrun.stats.ratio import interval_of
    ours, theirs = (math.fsum(ms) / len(ms) for ms in (found["ms"]["ours"], found["ms"]["theirs"]))
    ratio, interval = found["ratio"], "one pair, or equal ones, have no interval"
    if ratio["low"] is not None:
        interval = interval_of(ratio)
    return [f"{found['tokens_per_step']:,} tokens a step, {found['processes']} x "
            f"{found['hardware']['name']}, {found['steps']} steps timed a run",
            f"train_gpt.py {found['recipe']}{' --fast' if found['fast'] else ''}: {ours:.2f} ms a step",
            f"{found['file']}: {theirs:.2f} ms a step",
            f"ms a step, {found['file']} / train_gpt.py, {ratio['n']} pair{'s' * (ratio['n'] > 1)}: "
            f"{ratio['ratio']:.4f} ({interval})"]


########################################
#        Computed, not measured        #
########################################


def estimate(args, words: list[str]) -> int:
    """Print what models need, from their shapes alone."""
    from speedrun.bench.estimate import needs
    named = any(word.split("=")[0] == "--track" for word in words)
    plans = [plan_of(words)] if named else [plan_of([*words, "--track", name]) for name in ESTIMATED]
    rows = [needs(plan, args.nproc, CARD) for plan in plans]
    if args.json:
        print_json(dict(computed=True, ranks=args.nproc, card=CARD, rows=rows))
    else:
        print("\n".join(estimate_lines(rows, args.nproc)))
    return 0


def estimate_lines(rows: list[dict], ranks: int) -> list[str]:
    """What models need, for a person."""
    sizes = sorted({size for row in rows for size in row["needed"]})
    lines = [f"computed from shapes, not measured; GiB of one of {ranks} rank{'s' * (ranks > 1)}, an upper "
             "bound (the plain path, uncompiled)",
             f"{'':14}{'weights':>9}{'gradients':>11}{'state':>7}  in all, by sequences a micro-batch",
             f"{'':43}" + "".join(f"{size:>8}" for size in sizes) + f"   {CARD // GIB} GiB hold"]
    for row in rows:
        cells = "".join(f"{row['needed'][size] / GIB:8.1f}" if size in row["needed"] else " " * 8
                        for size in sizes)
        lines.append(f"{row['track']:14}{row['weights'] / GIB:9.2f}{row['gradients'] / GIB:11.2f}"
                     f"{row['state'] / GIB:7.2f}  {cells}   {row['fits'] or 'none'}")
    for row in rows:
        sent = sum(row["bytes_sent"].values())
        kinds = ", ".join(f"{name.replace('_', ' ')} {size / 1e6:,.1f}"
                          for name, size in row["bytes_sent"].items())
        lines.append(f"{row['track']}: {row['parameters'] / 1e6:,.1f}M parameters, "
                     f"{row['flops_per_token'] / 1e6:,.1f} MFLOP a token"
                     + (f", a rank sends {sent / 1e6:,.1f} MB a step ({kinds})" if ranks > 1 else ""))
    return lines


########################################
#            Command line              #
########################################


def parse(argv: list[str]):
    """The arguments of this command, and the words that are train_gpt.py's."""
    parser = Parser(prog="bench_step.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help="timed steps (default: 20; of --check and --against: 50)")
    add("--synthetic", action="store_true", help="random tokens, so no shards are needed")
    add("--against", type=Path, metavar="FILE", help="a script that prints modded-nanogpt's lines; it runs "
        "as a copy with fewer steps and validations; that its model is alike is for you to see")
    add("--pairs", type=int, metavar="K", help="with --against: runs of each side (default: 4)")
    add("--nproc", type=int, metavar="N", help="with --against: processes of a run; with --estimate: ranks")
    add("--check", action="store_true", help=f"exit 1 where --fast changes a training loss by {TOLERANCE}")
    add("--estimate", action="store_true", help="memory by micro-batch, bytes sent, FLOPs; computed")
    add("--json", action="store_true", help="print one JSON object")
    args, words = parser.parse_known_args(argv)
    modes = [name for name in ("against", "check", "estimate") if getattr(args, name)]
    if len(modes) > 1:
        raise Refusal(f"--{modes[0]} and --{modes[1]}: ask for one of them", code=2)
    args.mode = modes[0] if modes else "measure"
    for name, modes in (("pairs", ("against",)), ("nproc", ("against", "estimate"))):
        if getattr(args, name) is not None and args.mode not in modes:
            raise Refusal(f"--{name} goes with {' or '.join(f'--{mode}' for mode in modes)}; otherwise ranks "
                          "are started by torchrun", code=2)
    defaults = dict(steps=20 if args.mode == "measure" else 50, pairs=4, nproc=1)
    for name, default in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        if getattr(args, name) < 1:
            raise Refusal(f"--{name} {getattr(args, name)}: give at least 1", code=2)
    if args.mode in ("against", "estimate") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise Refusal(f"--{args.mode} is not for torchrun; give --nproc", code=2)
    return args, words


@command
def main(argv: list[str]) -> int:
    """Run the benchmark; the exit code."""
    args, words = parse(argv)
    return dict(measure=measure, check=check, against=against, estimate=estimate)[args.mode](args, words)


if __name__ == "__main__":
    sys.exit(main())
