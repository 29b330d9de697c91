"""What an optimizer does to its matrices, and which hidden units are dead: cheap enough for each validation.

Per matrix, of the momentum M and of the update U that the chain makes of it (without its scales):
    leverage_dead     share of long-side leverage scores below 1 % of the uniform n/m (the paper's dead)
    leverage_spread   standard deviation over mean of those scores
    row_spread        the same of the update's norms along the long side
    orthogonality     |U'U - I|_F / sqrt(n)
    alignment         Tr(M'U) / |M|_*: 1 for Muon's update, less for any other
    update_ratio      lr |U|_F / |W|_F, with the chain's scales
Per MLP:
    activation_dead   share of hidden units whose activation RMS is below 1 % of the layer's median

The leverage of row i of a tall M with thin SVD U_r S V' is |(U_r)_i|^2; of a wide one, that of its columns.
Source: arXiv 2606.27715, section 4.1 (leverage of the momentum, death below 1 % of uniform).
"""
import torch
from torch import Tensor, nn

from .decay import CautiousDecay, Decay
from .floor import UpdateFloor
from .hyperball import Hyperball
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .scale import AspectScale, RootMeanSquare, frobenius, ratio
from .stage import context, scalars_of

SCALES = (AspectScale, RootMeanSquare, UpdateFloor, Hyperball)
METRICS = ("leverage_dead", "leverage_spread", "row_spread", "orthogonality", "alignment", "update_ratio")


def leverage(M: Tensor) -> tuple[Tensor, Tensor]:
    """(scores, nuclear norm) of each matrix (batch, rows, cols): scores of its long side, (batch, long).

    By the eigenvectors of the short side's Gram matrix in float64; directions whose singular value is below
    1e-6 of the largest do not count.
    """
    M = M.double() if M.size(-2) >= M.size(-1) else M.mT.double()
    energy, V = torch.linalg.eigh(M.mT @ M)
    alive = energy > 1e-12 * energy[..., -1:]
    inverse = torch.where(alive, energy.clamp(min=1e-300), 1).rsqrt() * alive
    scores = (M @ V * inverse.unsqueeze(-2)).square().sum(dim=-1)
    return scores, energy.clamp(min=0).sqrt().sum(dim=-1)


def _spread(x: Tensor) -> Tensor:
    return x.std(dim=-1) / x.mean(dim=-1).clamp(min=1e-300)


def measure(M: Tensor, U: Tensor, step: Tensor, W: Tensor) -> Tensor:
    """(batch, len(METRICS)) in float64, for momenta, directions, steps and weights (batch, rows, cols)."""
    scores, nuclear = leverage(M)
    M, U, step, W = (X.double() for X in (M, U, step, W))
    if M.size(-2) < M.size(-1):
        M, U = M.mT, U.mT
    rows, cols = M.shape[-2:]
    eye = torch.eye(cols, dtype=U.dtype, device=U.device)
    norm = torch.linalg.matrix_norm
    return torch.stack((
        (scores < 0.01 * cols / rows).double().mean(dim=-1), _spread(scores),
        _spread(torch.linalg.vector_norm(U, dim=-1)), norm(U.mT @ U - eye) / cols**0.5,
        (M * U).sum(dim=(-2, -1)) / nuclear.clamp(min=1e-300),
        norm(step) / norm(W).clamp(min=1e-300)), dim=-1)


def direction(optimizer: MatrixOptimizer, stack, M: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """What the chain makes of the momentum, on a copy of its state and without decay: (U, the step lr U with
    the chain's scales)."""
    ctx = context(W, stack.group["balance"], M, scalars_of(stack.group, weight_decay=0.0, momentum=0.0),
                  state={name: value.clone() for name, value in stack.state.items()})
    U, scale = M, 1
    for stage in optimizer.chain:
        if isinstance(stage, SCALES):
            scale = ratio(frobenius(stage(scale * U, ctx)), frobenius(U))
        elif not isinstance(stage, (Nesterov, Decay, CautiousDecay)):
            U = stage(U, ctx)
    return U, ctx.lr * scale * U


@torch.no_grad()
def of_optimizer(optimizer: MatrixOptimizer, total=None) -> dict[str, dict[str, float]]:
    """parameter name -> metric -> value; {} before the first step.

    total: sums a tensor over the ranks that the matrices are sharded over (each measures what it owns).
    """
    if not optimizer.stacks:
        return {}
    names = [name for stack in optimizer.stacks for name in stack.names]
    table = torch.zeros((len(names), len(METRICS)), dtype=torch.float64,
                        device=optimizer.stacks[0].params[0].device)
    at = 0
    for stack in optimizer.stacks:
        if stack.owned:
            W = stack.batch(stack.owned, len(stack.owned)).float()
            M = stack.state["momentum"].float() if "momentum" in stack.state else torch.zeros_like(W)
            first = at + stack.first
            table[first:first + len(stack.owned)] = measure(M, *direction(optimizer, stack, M, W), W)
        at += len(stack.names)
    table = total(table) if total is not None else table
    return {name: dict(zip(METRICS, row)) for name, row in zip(names, table.tolist())}


@torch.no_grad()
def activation_dead(model: nn.Module, inputs: Tensor, targets: Tensor, total=None) -> dict[str, float]:
    """MLP name -> share of its hidden units that are dead on these tokens (batch, length).

    Runs the model's plain forward, one sequence at a time to hold little memory, with hooks on `mlp.proj` or
    `mlp.down`, whose input the units are: eagerly, since a graph that is compiled already calls no new hooks.
    """
    energy, hooks = {}, []

    def keep(name):
        def hook(_, args):
            energy[name] = energy.get(name, 0) + args[0].float().square().flatten(0, -2).sum(dim=0)
        return hook

    for name, module in model.named_modules():
        if name.endswith((".mlp.proj", ".mlp.down")):
            hooks.append(module.register_forward_pre_hook(keep(name.rsplit(".", 1)[0])))
    try:
        with torch.compiler.set_stance("force_eager"):
            for sequence, target in zip(inputs.split(1), targets.split(1)):
                model.forward(sequence, target)
    finally:
        for hook in hooks:
            hook.remove()
    shares = {}
    for name, squares in energy.items():
        rms = (total(squares) if total is not None else squares).sqrt()
        shares[name] = float((rms < 0.01 * rms.median()).float().mean())
    return shares


def diagnose(model: nn.Module, optimizers: list, inputs: Tensor, targets: Tensor, total=None) -> dict:
    """Both, as plain JSON by kind of matrix, layers in order, rounded to four significant digits:
    {"blocks.mlp.fc": {"row_spread": [...], ...}, ..., "activation_dead": [...]}."""
    found: dict = {}
    for optimizer in optimizers:
        if isinstance(optimizer, MatrixOptimizer):
            for name, values in of_optimizer(optimizer, total).items():
                parts = [part for part in name.split(".") if not part.isdigit() and part != "weight"]
                kind = found.setdefault(".".join(parts), {metric: [] for metric in METRICS})
                for metric, value in values.items():
                    kind[metric].append(float(f"{value:.4g}"))
    shares = activation_dead(model, inputs, targets, total)
    return {**found, "activation_dead": [float(f"{share:.4g}") for share in shares.values()]}
