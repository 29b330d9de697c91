"""Weights and tokens that any machine makes alike: uniform numbers from an integer hash."""
import zlib

import numpy as np
import torch

VOCAB, LAYERS, DIM, BATCH, LENGTH, STEPS = 512, 2, 256, 8, 128, 20
SHAPES = (48, 12), (12, 48), (24, 24)


def uniform(name: str, count: int) -> np.ndarray:
    """`count` numbers in [-1, 1), the same for a name everywhere (splitmix64)."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 24)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) / 2.0**63 - 1


@torch.no_grad()
def fill(model, zero_proj: bool, hidden_proj: bool = False) -> None:
    """Every parameter from its name; zero_proj: as a run starts, with proj and biases zero and gains one.

    hidden_proj: of the proj weights the head alone is zero; MuonH cannot start from zero.
    """
    for name, p in model.named_parameters():
        values = torch.from_numpy(uniform(name, p.numel())).view(p.shape)
        if name.endswith("gains"):
            p.copy_(1 + (0 if zero_proj else 0.3) * values)
        elif zero_proj and (name.endswith("bias") or "proj" in name.split(".")[0 if hidden_proj else -2]):
            p.zero_()
        elif name.startswith("embed"):
            p.copy_(values * 3**0.5)
        else:
            p.copy_(values * p.shape[-1] ** -0.5)


def tokens(step: int) -> torch.Tensor:
    """(BATCH, LENGTH + 1) ids that are partly predictable: each is near the one before."""
    jumps = (uniform(f"tokens {step}", BATCH * (LENGTH + 1)) * 4).astype(np.int64).reshape(BATCH, -1)
    return torch.from_numpy(np.abs(jumps.cumsum(1) + 40 * np.arange(BATCH)[:, None]) % VOCAB)


def weight_and_gradients(shape) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A weight and three gradients of it, float32, whose rows and columns differ in scale."""
    def draw(name):
        return torch.from_numpy(uniform(f"{name} {shape[0]}x{shape[1]}", shape[0] * shape[1])).view(shape)

    scale = (draw("rows")[:, :1] + draw("columns")[:1]).exp()
    return draw("weight").float(), [(scale * draw(f"gradient {step}")).float() for step in range(3)]
