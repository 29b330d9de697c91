"""Forks: runs that share their first steps are trained once up to there, and then each continues by itself.

    DIR/seed0             the trunk: a run of the first variant, with a checkpoint at the step of the fork
    DIR/seed0_VARIANT     continues from that checkpoint; a `fork` event in its log says so

All the variants see the same weights, optimizer states and data up to there, so what they end with is what
full runs of theirs end with (on the CPU to the digit), and the runs of one seed are paired.
"""
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from speedrun import ROOT, launch
from speedrun.cli import Refusal
from speedrun.log.command import Command
from speedrun.log.folder import lock_folder, logs_in, the_log
from speedrun.log.format import Log
from speedrun.log.reader import read_log

from .fork_figures import weigh
from .trunks import Trunk, own_header, prepare, resumable
from .variants import Variant


def fork(variants: list[Variant], seeds: list[int], folder: Path, at: int,
         processes: int | None = None) -> dict:
    """Fork the runs of `seeds` at step `at` into the variants, with their logs in `folder`; what they show,
    as fork_figures.weigh has it.

    variants: of read_variants, the first is the trunk's. processes: of each run (default: one a GPU, one on a
    CPU). What is done is kept. Refusal where a run fails or `folder` holds other runs than these.
    """
    if processes is None:
        processes = torch.cuda.device_count() if variants[0].plan.device == "cuda" else 1
    runs = _Runs(folder, at, processes)
    trunks, forks = {}, {variant.name: {} for variant in variants}
    with lock_folder(folder):
        for seed in seeds:
            trunk = runs.trunk(variants[0], seed)
            trunks[seed] = trunk.log
            for variant in variants:
                forks[variant.name][seed] = runs.branch(variant, trunk)
    return weigh(trunks, forks)


@dataclass
class _Runs:
    """Trunks and forks in a folder, trained where they are not there."""

    folder: Path
    at: int
    processes: int
    headers: dict[str, dict] = field(default_factory=dict)  # variant -> own_header, once made

    def train(self, variant: Variant, command: Command, folder: Path, what: str) -> Log:
        """Run the command for the run in `folder`; its log. Refusal where it fails."""
        print(f"{what}: training", file=sys.stderr, flush=True)
        if "resume" in command.given:  # else it is among the variant's own arguments
            command = command.plus(data_dir=variant.plan.args.data_dir)
        words = launch.command_words(ROOT / "train_gpt.py", command.words, self.processes)
        output = self.folder / "output.log"
        with open(output, "a", encoding="utf-8") as file:
            code, why = launch.run(words, Path.cwd(), file.write)
        if code:
            raise Refusal(f"{what} failed: {why}; what it printed is in {output}, what is done is kept")
        log = read_log(the_log(folder))
        seed, = log.series
        last = log.series[seed][-1]
        print(f"{what}: val_loss {last.val_loss:.5f} at step {last.step}", file=sys.stderr, flush=True)
        return log

    def trunk(self, first: Variant, seed: int) -> Trunk:
        """The trunk of a seed. Refusal where what is there is no such trunk."""
        folder, what = self.folder / f"seed{seed}", f"trunk of seed {seed}"
        log = read_log(the_log(folder)) if logs_in(folder) else None
        if log is not None and not log.header:  # killed within the header: nothing was trained
            log.path.unlink()
            log = None
        if log is None:
            # One step more than shared: the trainer keeps a checkpoint before a step, not after the last.
            command = first.command([seed], without=("steps",)).plus(
                steps=self.at + 1, checkpoint_every=often(self.at), log_dir=folder)
            self.train(first, command, folder, what)
        elif log.status != "complete":
            self.train(first, Command().plus(resume=folder), folder, what)
        return Trunk.of(folder, seed, self.at, first)

    def branch(self, variant: Variant, trunk: Trunk) -> Log:
        """The log of a variant's complete run from the trunk. Refusal where what is there is another run."""
        folder = self.folder / f"seed{trunk.seed}_{variant.name}"
        what = f"{variant.name} of seed {trunk.seed}"
        plan = variant.plan_of(trunk.seed)
        if folder.exists():
            log = read_log(the_log(folder))
            if not trunk.leads_to(log, plan) or (log.status == "complete" and log.problems):
                raise Refusal(f"{folder} holds another run than {variant.name} from step {trunk.at} of this "
                              "trunk; name another --trunk folder, or delete it and run this again")
            if log.status == "complete":
                return log
        if not (folder.exists() and resumable(folder)):
            if variant.name not in self.headers:
                self.headers[variant.name] = own_header(plan)
            shutil.rmtree(folder, ignore_errors=True)
            header = dict(self.headers[variant.name], seeds=[trunk.seed])
            prepare(folder, trunk, plan, header, self.processes)
        log = self.train(variant, Command().plus(resume=folder), folder, what)
        for path in folder.glob("checkpoint_*"):  # each is as large as the model; the trunk's stay
            path.unlink()
        return log


def often(at: int) -> int:
    """How many steps between a trunk's checkpoints, so that one is at step `at`."""
    return max((every for every in range(50, 251) if at % every == 0), default=at)
