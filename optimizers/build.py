"""The optimizers of a recipe for a whole model, whose parameters are named as train_gpt.GPT's are."""
import re

import torch
from torch import nn

from .matrix import MatrixOptimizer
from .recipe import AdamW, Recipe
from .wrappers import Wrapper


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of `model`, without the prefixes of torch.compile and DistributedDataParallel."""
    return [(re.sub(r"^((_orig_mod|module)\.)+", "", name), p) for name, p in model.named_parameters()]


def roles(model: nn.Module) -> dict[str, list]:
    """(name, parameter) of `model` by role: embed, head, vector, and the matrices attn, up and down."""
    by_role: dict[str, list] = {role: [] for role in ("embed", "head", "vector", "attn", "up", "down")}
    for name, p in named(model):
        if p.ndim < 2:
            role = "vector"
        elif name.startswith("embed."):
            role = "embed"
        elif name.startswith("proj."):
            role = "head"
        elif ".attn." in name:
            role = "attn"
        elif ".mlp." in name:
            role = "down" if name.split(".")[-2] in ("proj", "down") else "up"
        else:
            raise ValueError(f"build_optimizers: no role for {name} of shape {tuple(p.shape)}; name it like "
                             "a parameter of train_gpt.GPT, or build the optimizers by hand")
        by_role[role].append((name, p))
    return by_role


def build_optimizers(model: nn.Module, recipe: Recipe, process_group=None) -> list:
    """The optimizers of a recipe: AdamW for embedding, head and vectors, and the recipe's chain (or AdamW)
    for the hidden matrices, each role with its balance. Learning rates are at their peak, also "initial_lr".

    process_group: the ranks the matrices are sharded over, see MatrixOptimizer; AdamW takes gradients as
    they are. Every param group says in "cooldown_frac" over which share of the schedule its lr cools down.
    """
    by_role, aux = roles(model), recipe.aux
    groups = [dict(params=by_role[role], lr=lr) for role, lr in
              (("embed", aux.embed_lr), ("head", aux.head_lr), ("vector", aux.vector_lr)) if by_role[role]]
    optimizers = [torch.optim.AdamW(groups, betas=(aux.beta1, aux.beta2), eps=aux.eps,
                                    weight_decay=aux.weight_decay, fused=True)]
    if isinstance(recipe.matrices, AdamW):
        adam = recipe.matrices
        matrices = [pair for role in ("attn", "up", "down") for pair in by_role[role]]
        optimizers.append(torch.optim.AdamW(matrices, lr=recipe.lr, betas=(adam.beta1, adam.beta2),
                                            eps=adam.eps, weight_decay=recipe.weight_decay, fused=True))
    else:
        groups = [dict(params=by_role[role], balance=getattr(recipe.balance, role))
                  for role in ("attn", "up", "down") if by_role[role]]
        optimizers.append(MatrixOptimizer(groups, recipe.matrices, recipe.lr, recipe.weight_decay,
                                          recipe.momentum, process_group=process_group))
    for optimizer, cooldown_frac in zip(optimizers, (recipe.aux_cooldown_frac, recipe.cooldown_frac)):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["cooldown_frac"] = cooldown_frac
    return optimizers


def build_wrappers(model: nn.Module, recipe: Recipe, optimizers: list) -> list[Wrapper]:
    """The recipe's wrappers at work on the model's parameters and the optimizers built for it."""
    return [wrapper.attach(named(model), optimizers) for wrapper in recipe.wrappers]
