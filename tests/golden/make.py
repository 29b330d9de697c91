"""Writes golden.json: what modded-nanogpt's track-3 model and Muon do on the inputs of inputs.py.

    git clone https://github.com/KellerJordan/modded-nanogpt
    python tests/golden/make.py modded-nanogpt/records/track_3_optimization/train_gpt_simple.py

It runs the Architecture and Optimizer sections of that file, on the CPU, with torch.compile off.
"""
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from inputs import DIM, LAYERS, STEPS, VOCAB, fill, tokens


def sections(path: Path) -> dict:
    """The names defined by the Architecture and Optimizer sections."""
    source = path.read_text()
    start, end = source.index("#             Architecture"), source.index("#                Setup")
    names = {}
    exec("import torch, torch.distributed as dist, torch.nn.functional as F\nfrom torch import Tensor, nn\n#"
         + source[start:end].replace("@torch.compile\n", ""), names)
    return names


def main(path: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
    dist.init_process_group("gloo", rank=0, world_size=1)
    theirs = sections(path)
    model = theirs["GPT"](VOCAB, LAYERS, DIM)
    fill(model, zero_proj=False)
    ids = tokens(0)
    loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    loss.backward()
    golden = dict(loss=loss.item(), shapes={n: list(p.shape) for n, p in model.named_parameters()},
                  grad_norms={n: p.grad.float().norm().item() for n, p in model.named_parameters()}, muon=[])
    model.zero_grad()
    fill(model, zero_proj=True)
    adam = torch.optim.AdamW([dict(params=[model.embed.weight], lr=0.7),
                              dict(params=[model.proj.weight], lr=0.004),
                              dict(params=[p for p in model.parameters() if p.ndim < 2], lr=0.015)],
                             betas=(0.8, 0.95), eps=1e-10, weight_decay=0.001, fused=True)
    muon = theirs["Muon"]([p for p in model.blocks.parameters() if p.ndim >= 2], lr=0.025, weight_decay=0.05)
    for step in range(STEPS):
        ids = tokens(step)
        loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        golden["muon"].append(loss.item() / ids[:, 1:].numel())
        adam.step()
        muon.step()
        model.zero_grad()
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
