"""What the tests of scripts/export.py share: a stand-in for modded-nanogpt's train_gpt_simple.py, which has
that script's section marks and names and nothing else of it, and trains a tiny model for seven steps."""
import re

from scripts import export

BOX = "########################################\n#{:^38}#\n########################################\n"

STAND_IN = '''import hashlib
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


''' + BOX.format("Architecture") + '''
class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gains = nn.Parameter(torch.empty(dim))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.gains)

class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        heads = [m(x).unflatten(-1, (2, -1)).transpose(1, 2) for m in (self.q, self.k, self.v)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(-2))

class MLP(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc, self.proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.proj(self.fc(x).relu().square())

class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attn, self.mlp, self.norm1, self.norm2 = Attention(dim), MLP(dim), RMSNorm(dim), RMSNorm(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

class GPT(nn.Module):
    def __init__(self, vocab_size, num_layers, dim):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim).bfloat16()
        self.blocks = nn.ModuleList(Block(dim) for _ in range(num_layers))
        self.proj, self.norm1, self.norm2 = nn.Linear(dim, vocab_size), RMSNorm(dim), RMSNorm(dim)

    def forward(self, inputs, targets):
        x = self.norm1(self.embed(inputs).float())
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.proj(self.norm2(x)).flatten(0, 1), targets.flatten(), reduction="sum")


''' + BOX.format("Optimizer") + '''<optimizer>''' + BOX.format("Setup") + '''
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo", init_method=f"file://{os.environ['MEETING']}", rank=rank,
                        world_size=world_size)

def print0(s, console=False):
    if rank == 0:
        print(s, flush=True)

model = GPT(32, 2, 16)
tokens = torch.randint(32, (8, 9), generator=torch.Generator().manual_seed(7))
num_trials = int(sys.argv[-1])

for _ in range(num_trials):


''' + re.sub("^", "    ", BOX.format("Init & Optim Hyperparams").rstrip(), flags=re.M) + '''
<hyperparameters>''' + re.sub("^", "    ", BOX.format("Training").rstrip(), flags=re.M) + '''

    for p in model.parameters():
        dist.broadcast(p.detach(), 0)
    mine = tokens.chunk(world_size)[rank]
    for step in (0, 1, 2, train_steps // 8, train_steps // 2, train_steps - 2, train_steps - 1):
        loss = model(mine[:, :-1], mine[:, 1:])
        loss.backward()
        total = loss.detach().double()
        for value in (total, *(p.grad for p in model.parameters())):
            dist.all_reduce(value)
        set_hparams(step)
        for opt in optimizers:
            opt.step()
        model.zero_grad(set_to_none=True)
        print0(f"step:{step} of {train_steps} loss:{total.item():.9g}")
        print0([group["lr"] for opt in optimizers for group in opt.param_groups])
    weights = b"".join(p.detach().float().numpy().tobytes() for p in model.parameters())
    print(f"weights of rank {rank}: {hashlib.sha256(weights).hexdigest()}", flush=True)

dist.destroy_process_group()
'''
PIECES = re.split("<optimizer>|<hyperparameters>", STAND_IN)


def filled(optimizer, hyperparameters):
    return PIECES[0] + optimizer + PIECES[1] + hyperparameters + PIECES[2]


UPSTREAM = filled("\nclass Old:\n    pass\n\n\n", '''
    train_steps = 7
    optimizers = [Old()]

    def set_hparams(step):
        pass


''')


def exported(upstream, name):
    """The stand-in's text with the sections of a recipe."""
    out = upstream.with_name(f"{name}.py")
    assert export.main([name, "--upstream", upstream, "--out", out]) == 0
    return out.read_text()
