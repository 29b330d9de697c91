"""Writes golden.json and weights.json: what upstream's own code does on the inputs of inputs.py.

    git clone https://github.com/KellerJordan/modded-nanogpt        # made at f411b3d
    git clone https://github.com/tilde-research/aurora-release      # made at 3d79a5c
    python tests/golden/make.py modded-nanogpt aurora-release

A row of track 3 is the script that its log begins with: its Architecture, Optimizer and hyper-parameter
sections are run, on the CPU and with the learning rates at their peak.
"""
import json
import os
import sys
import textwrap
from pathlib import Path

import torch
import torch.distributed as dist
from inputs import DIM, LAYERS, SHAPES, STEPS, VOCAB, fill, tokens, weight_and_gradients

RESULTS = "records/track_3_optimization/results"
LOGS = {  # the logs that records/track_3_optimization/README.md names, by row
    36: "20260610_tuned_baseline_3250/263ea3c4-2b13-4adf-8a71-0410386b20e1.txt",
    12: "1bd8db7a-f3a3-4195-856d-cab7e0816443.txt",
    10: "20260503_normuon/e0d0185f-ccb8-426d-8265-a4e762ec69f6.txt",
    17: "20260505_aurora/298f02bc-dbb4-4661-9ad8-f6429d532873.txt",
    5: "20260430_muonh/9319c798-6643-464a-b407-b05468e468f5.txt",
}
IMPORTS = ("import torch, torch.distributed as dist, torch.nn.functional as F\n"
           "from torch import Tensor, nn\nfrom torch.optim import AdamW\n")


def section(source: str, first: str, last: str) -> str:
    """The lines from the one with `first` to before the one with `last`, as a block of their own."""
    start, end = (source.rindex("\n", 0, source.index(mark)) + 1 for mark in (first, last))
    # Compiling takes a minute a shape and changes rounding alone.
    return textwrap.dedent(source[start:end]).replace("@torch.compile\n", "")


def definitions(log: Path) -> dict:
    """The names that the Architecture and Optimizer sections define; the next one, Setup, wants CUDA."""
    names = {}
    exec(IMPORTS + section(log.read_text(), "#             Architecture", "#                Setup"), names)
    return names


def row(log: Path) -> list[float]:
    """The losses per token of STEPS steps."""
    names = definitions(log)
    model = names["model"] = names["GPT"](VOCAB, LAYERS, DIM)
    exec(section(log.read_text(), "# initialize model parameters", "# learning rate schedule"), names)
    fill(model, zero_proj=True, hidden_proj=bool(model.blocks[0].mlp.proj.weight.any()))
    losses = []
    for step in range(STEPS):
        ids = tokens(step)
        loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        losses.append(loss.item() / ids[:, 1:].numel())
        for optimizer in names["optimizers"]:
            optimizer.step()
        model.zero_grad()
    return losses


def gradients(log: Path) -> dict:
    """Shapes, the loss of one batch and the norms of its gradients, with no weight at zero."""
    model = definitions(log)["GPT"](VOCAB, LAYERS, DIM)
    fill(model, zero_proj=False)
    ids = tokens(0)
    loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    loss.backward()
    return dict(loss=loss.item(), shapes={n: list(p.shape) for n, p in model.named_parameters()},
                grad_norms={n: p.grad.float().norm().item() for n, p in model.named_parameters()})


def three_steps(log: Path, release: Path, cast: str) -> dict:
    """"aurora 48x12" and so on -> the weight after the release's, or track 3's Muon's, three steps.

    cast: what takes the place of `bfloat16` where the polar's iteration begins; "float" shows the formulas
    without its rounding.
    """
    muon = {}
    exec(IMPORTS + section(log.read_text(), "#              Optimizer", "#                Setup")
         .replace("G.bfloat16()", f"G.{cast}()"), muon)
    aurora = {}
    for name in ("polar", "aurora"):  # one namespace in place of the import of one by the other
        exec((release / f"src/{name}.py").read_text().replace("from polar import polar\n", "")
             .replace("G.bfloat16()", f"G.{cast}()"), aurora)
    found = {}
    for shape in SHAPES:
        W, grads = weight_and_gradients(shape)
        p, momentum = torch.nn.Parameter(W.clone()), torch.zeros(shape)
        optimizer = muon["Muon"]([p], lr=0.05, weight_decay=0.025, mu=0.95)
        for g in grads:
            p.grad = g.clone()  # both write into the gradient
            optimizer.step()
            aurora["aurora"](W, g.clone(), momentum, eta=0.05, weight_decay=0.025, mu=0.95, pp_iterations=2,
                             pp_beta=0.5)
        for name, weight in (("aurora", W), ("muon", p)):
            found[f"{name} {shape[0]}x{shape[1]}"] = [round(x, 6) for x in weight.flatten().tolist()]
    return found


def main(modded: Path, release: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
    dist.init_process_group("gloo", rank=0, world_size=1)
    logs = {number: modded / RESULTS / log for number, log in LOGS.items()}
    weights = {cast: three_steps(logs[36], release, cast) for cast in ("bfloat16", "float")}
    golden = gradients(logs[36]) | {"rows": {number: row(log) for number, log in logs.items()}}
    folder = Path(__file__).parent
    (folder / "weights.json").write_text(json.dumps(weights).replace("], ", "],\n") + "\n")
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
