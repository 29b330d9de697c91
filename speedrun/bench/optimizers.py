"""Optimizers side by side: one stack of matrices, the same gradients, in turn for some rounds."""
import sys
import time
from itertools import accumulate
from statistics import mean, median

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from optimizers import (
    RECIPES,
    Aurora,
    Decay,
    MatrixOptimizer,
    Muon,
    Nesterov,
    NorMuon,
    Polar,
    RiemannianAurora,
    Soap,
    UNorMuon,
)
from optimizers.diagnostics import direction, leverage
from optimizers.polar import METHODS
from speedrun.cli import Refusal

GPT2_SMALL = ("3072x768:12", "768x3072:12", "768x768:48")
ONE_LAYER = ("3072x768:1", "768x3072:1", "768x768:4")
COLUMNS = ("ms", "spread", "ratio", "gflop", "launches", "peak_mib", "row_spread", "row_norm", "sigma_min",
           "sigma_max", "alignment")


def contenders(precision: str | None) -> dict:
    """name -> optimizer over a list of parameters, all with lr .02, weight decay .025 and momentum .95."""
    common = dict(lr=0.02, weight_decay=0.025)
    own = dict(common, precision=precision)

    def torch_muon(steps, coefficients):
        return lambda p: torch.optim.Muon(p, **common, ns_steps=steps, ns_coefficients=coefficients)

    found = {"torch.Muon quintic5": torch_muon(5, (3.4445, -4.7750, 2.0315)),
             "torch.Muon quintic12": torch_muon(12, (2.0, -1.5, 0.5))}
    methods = [method for method in METHODS if (method, precision) != ("gram", "bfloat16")]
    for method in methods:
        found[f"muon {method}"] = lambda p, method=method: Muon(p, polar=method, **own)
    found["normuon track3"] = lambda p: NorMuon(p, **own)
    found["normuon paper"] = lambda p: NorMuon(p, form="paper", **own)
    found["unormuon"] = lambda p: UNorMuon(p, **own)
    for schedule in ("restart", "polish", "warm", "algorithm3"):
        found[f"aurora {schedule}"] = lambda p, schedule=schedule: Aurora(p, schedule=schedule, **own)
    for method in methods:
        if method != "quintic12":
            found[f"aurora restart {method}"] = lambda p, method=method: Aurora(p, polar=method, **own)
    found["riemannian"] = lambda p: RiemannianAurora(p, **own)
    found["soap muon"] = lambda p: MatrixOptimizer(
        p, (Nesterov(), Soap(), Polar(precision=precision), Decay()), 0.02, 0.025)
    for row in ("track3-17", "track3-5"):
        found[row] = lambda p, row=row: MatrixOptimizer(p, RECIPES[row].matrices, 0.02, 0.0, balance="rows")
    return found


def gradient(rows: int, cols: int, seed: int, device: str) -> torch.Tensor:
    """Like a momentum: lognormal row scales (sigma .5), a spectrum of columns from 1 to .01."""
    g = torch.Generator().manual_seed(seed)
    scales = (0.5 * torch.randn(rows, 1, generator=g)).exp() * torch.logspace(0, -2, cols)
    return (torch.randn(rows, cols, generator=g) * scales).to(device)


def figures(optimizer, params, before) -> dict:
    """Row spread and norm, extreme singular values and alignment of the update of the tall matrices."""
    if isinstance(optimizer, MatrixOptimizer):
        pairs = []
        for stack in optimizer.stacks:
            M = torch.stack([optimizer.state[p]["momentum"] for p in stack.params])
            pairs.append((M, direction(optimizer, stack, M, torch.stack(stack.params).detach())[0]))
    else:  # a peer: from what its step did, less weight decay and the scale of the shape
        pairs = []
        for p, old in zip(params, before):
            scale = 0.02 * max(1, p.size(0) / p.size(1)) ** 0.5
            M = optimizer.state[p]["momentum_buffer"]
            pairs.append((M[None], ((old * (1 - 0.02 * 0.025) - p.detach()) / scale)[None]))
    tall = [pair for pair in pairs if pair[0].size(-2) > pair[0].size(-1)] or pairs
    rows, mean_norms, sigma, aligned = [], [], [], []
    for M, U in tall:
        norms = torch.linalg.vector_norm(U.double(), dim=-1)
        short = U.double() if U.size(-2) < U.size(-1) else U.mT.double()
        s = torch.linalg.eigvalsh(short @ short.mT).clamp(min=0).sqrt()  # svdvals takes minutes on a GPU
        rows += (norms.std(dim=-1) / norms.mean(dim=-1)).tolist()
        mean_norms += (norms.mean(dim=-1) * (U.size(-2) / U.size(-1)) ** 0.5).tolist()
        sigma += s[:, [0, -1]].tolist()
        aligned += ((M.double() * U.double()).sum(dim=(-2, -1)) / leverage(M)[1]).tolist()
    return dict(row_spread=mean(rows), row_norm=mean(mean_norms), sigma_min=min(low for low, _ in sigma),
                sigma_max=max(high for _, high in sigma), alignment=mean(aligned))


def profiled(step, cuda: bool) -> dict:
    """Kernels launched by one step on CUDA; on the CPU, operators called, and the most memory they held."""
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda],
                 profile_memory=not cuda) as trace:
        step()
    if cuda:
        kernels = [event for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return dict(launches=sum(not event.is_user_annotation for event in kernels), peak_mib=None)
    held = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    sums = accumulate(event.nbytes() for event in sorted(held, key=lambda event: event.start_ns()))
    count = sum(event.name.startswith("aten::") and
                not (event.cpu_parent and event.cpu_parent.name.startswith("aten::"))
                for event in trace.events())
    return dict(launches=count, peak_mib=max(sums) / 2**20)


def measure(found: dict, stack: list, repeat: int, device: str) -> list[dict]:
    """One row of COLUMNS for each contender, rounds interleaved."""
    cuda, runs = device == "cuda", {}
    grads = [gradient(rows, cols, seed, device) for seed, (rows, cols) in enumerate(stack)]
    for name, make in found.items():
        print(f"{name}: two steps before the rounds", file=sys.stderr, flush=True)  # minutes, where compiled
        params = [nn.Parameter(0.02 * gradient(*shape, 1000 + i, device)) for i, shape in enumerate(stack)]
        for p, g in zip(params, grads):
            p.grad = g
        optimizer = make(params)
        for _ in range(2):  # allocates, compiles; Soap's first step has a graph of its own
            optimizer.step()
        # Eager: under a dispatch mode dynamo would give the function up for good.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            optimizer.step()
        runs[name] = dict(optimizer=optimizer, params=params, gflop=counter.get_total_flops() / 1e9,
                          **profiled(optimizer.step, cuda), times=[])
    for _ in range(repeat):
        for run in runs.values():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                base = torch.cuda.memory_allocated()
                torch.cuda.synchronize()
            started = time.perf_counter()
            run["optimizer"].step()
            if cuda:
                torch.cuda.synchronize()
                run["peak_mib"] = (torch.cuda.max_memory_allocated() - base) / 2**20
            run["times"].append(1000 * (time.perf_counter() - started))
    base = runs.get("muon quintic12", next(iter(runs.values())))["times"]
    rows = []
    for name, run in runs.items():
        before = [p.detach().clone() for p in run["params"]]
        run["optimizer"].step()
        times = run["times"]
        rows.append(dict(name=name, ms=median(times), spread=(max(times) - min(times)) / median(times),
                         ratio=median(t / b for t, b in zip(times, base)), gflop=run["gflop"],
                         launches=run["launches"], peak_mib=run["peak_mib"],
                         **figures(run["optimizer"], run["params"], before)))
    return rows


def parse_stack(words: list[str]) -> list:
    """["3072x768:2", ...] as a list of shapes."""
    shapes = []
    for word in words:
        try:
            shape, _, count = word.partition(":")
            rows, cols = map(int, shape.split("x"))
            shapes += [(rows, cols)] * int(count or 1)
        except ValueError:
            raise Refusal(f"--stack {word}: give shapes as ROWSxCOLS:COUNT, for example 3072x768:12",
                          code=2) from None
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise Refusal("--stack: give at least one matrix with at least one row and column", code=2)
    return shapes


def chosen(precision: str | None, only: list[str] | None, device: str) -> dict:
    """The contenders whose name holds one of the words `only`. An exact polar is an SVD, on a GPU minutes for
    a stack: there it is left out unless named. Refusal where none is left."""
    found = {name: make for name, make in contenders(precision).items() if (
        any(word.lower() in name.lower() for word in only) if only else
        device == "cpu" or not name.endswith("exact"))}
    if not found:
        raise Refusal(f"--only {' '.join(only)}: no such optimizer; known: "
                      f"{', '.join(contenders(None))}", code=2)
    return found


def lines(rows: list[dict], where: str, cuda: bool, matrices: int, repeat: int) -> list[str]:
    """The rows as a table, for a person."""
    names = [row["name"] for row in rows]
    found = [f"{where}, torch {torch.__version__}, {matrices} matrices, {repeat} rounds; ratio: to "
             f"{'muon quintic12' if 'muon quintic12' in names else names[0]}; launches: "
             f"{'kernels' if cuda else 'operators'}", f"{'':29}" + "".join(f"{c:>11}" for c in COLUMNS)]
    for row in rows:
        cells = ["n/a" if row[c] is None else f"{row[c]:,.0f}" if c == "launches" else f"{row[c]:.4g}"
                 for c in COLUMNS]
        found.append(f"{row['name']:29}" + "".join(f"{cell:>11}" for cell in cells))
    return found
