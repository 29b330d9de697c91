"""Aurora, Muon and their relatives: ordinary torch optimizers, each a chain of stages. Needs only torch.

    from optimizers import Aurora
    optimizer = Aurora(matrices, lr=0.035)          # the 2-D hidden weights; AdamW for everything else

or, for a whole model whose parameters are named as train_gpt.py's are:

    for optimizer in build_optimizers(model, RECIPES["aurora"]): ...

README.md is the manual. These names are for all, and of the modules diagnostics.diagnose, recipe.with_field,
recipes.add, finite.HostCopy, stack.stacks_of, and what a stage is made with (stage.py).
"""
from .aurora import Aurora, BalancedPolar
from .balance import balanced_polar
from .build import build_optimizers, build_wrappers, named, roles
from .contra import Contra
from .decay import CautiousDecay, Decay
from .equilibrate import Equilibrate
from .floor import UpdateFloor
from .hyperball import Hyperball
from .matrix import MatrixOptimizer
from .momentum import Nesterov
from .muon import Muon, Polar
from .normuon import NorMuon, RowNorm, RowVariance, UNorMuon
from .polar import polar
from .recipe import AdamW, Auxiliary, Balance, Init, Recipe
from .recipes import RECIPES, derive, resolve
from .riemannian import RiemannianAurora, RiemannianPolar, constrained_polar, reference_optimum
from .scale import AspectScale, RootMeanSquare
from .soap import Soap
from .stage import Context, Stage
from .wrappers import EmaNesterov, TailAverage, Wrapper

__all__ = ["Aurora", "RiemannianAurora", "Muon", "NorMuon", "UNorMuon", "MatrixOptimizer", "Stage",
           "Context", "Nesterov", "Polar", "BalancedPolar", "RiemannianPolar", "RowVariance", "RowNorm",
           "Equilibrate", "Contra", "Soap", "AspectScale", "RootMeanSquare", "UpdateFloor", "Decay",
           "CautiousDecay", "Hyperball", "Wrapper", "EmaNesterov", "TailAverage", "polar", "balanced_polar",
           "constrained_polar", "reference_optimum", "RECIPES", "Recipe", "Auxiliary",
           "Balance", "Init", "AdamW", "resolve", "derive", "build_optimizers", "build_wrappers", "roles"]
