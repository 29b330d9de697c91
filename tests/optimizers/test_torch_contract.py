"""What every optimizer and chain must do as an ordinary torch optimizer, and wrappers where it applies."""
import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from optimizers import (
    RECIPES,
    Aurora,
    Decay,
    EmaNesterov,
    MatrixOptimizer,
    Muon,
    Nesterov,
    NorMuon,
    Polar,
    RiemannianAurora,
    Soap,
    TailAverage,
    UNorMuon,
    polar,
)
from optimizers.stage import run_chain
from tests.support.matrices import SQUARE, TALL, WIDE, give, matrix, three
from tests.support.wrapped import Wrapped

CHAINS = {"muon": Muon,
          "aurora": Aurora,
          "normuon": NorMuon,
          "normuon paper": lambda p, lr: NorMuon(p, lr, form="paper"),
          "unormuon": lambda p, lr: UNorMuon(p, lr, balance="long"),
          "warm": lambda p, lr: Aurora(p, lr, balance="long", schedule="warm"),
          "polish": lambda p, lr: Aurora(p, lr, balance="long", schedule="polish"),
          "riemannian": lambda p, lr: RiemannianAurora(p, lr, balance="long"),
          "soap": lambda p, lr: MatrixOptimizer(p, (Nesterov(), Soap(), Polar(), Decay()), lr),
          **{name: lambda p, lr, r=RECIPES[name]: MatrixOptimizer(p, r.matrices, lr, balance="long")
             for name in ("track3-17", "track3-5", "muoneq")}}
WRAPPERS = {"EmaNesterov": EmaNesterov(0.6, 0.9, 1, 5), "TailAverage": TailAverage(2, 4, 0.5)}
every_chain = pytest.mark.parametrize("name", CHAINS)


SHAPES = (TALL, WIDE, SQUARE, TALL, TALL)


class Chained:
    """Matrices of SHAPES, and the optimizer CHAINS[name] at work on them."""

    def __init__(self, name, lr=0.1):
        self.params = [nn.Parameter(matrix(shape, 1 + i)) for i, shape in enumerate(SHAPES)]
        self.optimizer = CHAINS[name]([(f"p{i}", p) for i, p in enumerate(self.params)], lr)
        self.parts = [self.optimizer]  # what has a state

    def give(self, step, scale=1.0):
        for i, p in enumerate(self.params):
            p.grad = scale * matrix(p.shape, 100 * step + i)

    def run(self, steps, scale=1.0):
        for step in steps:
            self.give(step, scale)
            self.optimizer.step()

    def readout(self):
        return nullcontext()


def start(name, lr=0.1):
    return Wrapped(WRAPPERS[name]) if name in WRAPPERS else Chained(name, lr)


def kept(chained):
    """Copies of the weights and of the state."""
    state = chained.optimizer.state_dict()["state"]
    return [p.detach().clone() for p in chained.params], copy.deepcopy(state)


def same(one, other):
    (weights, state), (others, there) = one, other
    return all(map(torch.equal, weights, others)) and state.keys() == there.keys() and all(
        state[i].keys() == there[i].keys() and all(torch.equal(state[i][k], there[i][k]) for k in state[i])
        for i in state)


# ---------------------------------------------------------------- states


@pytest.mark.parametrize("name", [*CHAINS, *WRAPPERS])
def test_a_saved_state_continues_identically(name):
    first, second = start(name), start(name, lr=0.5)
    first.run(range(3))
    for p, twin in zip(first.params, second.params):
        twin.data.copy_(p)
    for part, twin in zip(first.parts, second.parts):
        twin.load_state_dict(copy.deepcopy(part.state_dict()))
    for each in (first, second):
        each.run(range(3, 6))
    assert all(map(torch.equal, first.params, second.params))
    with first.readout(), second.readout():
        assert all(map(torch.equal, first.params, second.params))
    if name in CHAINS:
        state = first.optimizer.state_dict()["state"]
        assert {i: s["momentum"].shape for i, s in state.items()} == dict(enumerate(SHAPES))


@every_chain
@pytest.mark.parametrize("between", [lambda o: o, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],
                         ids=["as it is", "a copy", "unpickled"])
def test_a_state_is_loaded_as_often_as_it_is_given(name, between):
    """As Trainer and accelerate do."""
    first = start(name)
    first.run(range(2))
    twin = start(name)
    optimizer = between(twin.optimizer)
    for _ in range(2):
        optimizer.load_state_dict(first.optimizer.state_dict())
        optimizer = between(optimizer)
    there = optimizer.state_dict()
    assert there["param_groups"] == first.optimizer.state_dict()["param_groups"]
    assert same(([], there["state"]), ([], first.optimizer.state_dict()["state"]))
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()  # which builds its stacks from that state
    assert optimizer.param_groups[0]["step"] == 3


@every_chain
def test_a_copy_of_an_optimizer_continues_alike(name):
    first = start(name)
    first.run(range(1))
    twin = copy.deepcopy(first)
    for each in (first, twin):
        each.run(range(1, 2))
    assert all(map(torch.equal, first.params, twin.params)) and twin.params[0] is not first.params[0]


def test_the_state_of_another_optimizer_is_refused():
    model, optimizer = three(Muon)
    other = torch.optim.Muon(model.values())
    with pytest.raises(ValueError, match="Muon: this is the state of another kind.*no 'balance'"):
        optimizer.load_state_dict(other.state_dict())


# ---------------------------------------------------------------- the step


@every_chain
def test_stacks_equal_single_matrices(name):
    together = start(name)
    alone = [nn.Parameter(p.detach().clone()) for p in together.params]
    optimizers = [CHAINS[name]([p], 0.1) for p in alone]
    for step in range(3):
        together.run([step])
        for p, q, optimizer in zip(together.params, alone, optimizers):
            q.grad = p.grad.clone()
            optimizer.step()
    for p, q in zip(together.params, alone):
        assert torch.allclose(p, q, atol=1e-6)


@every_chain
@pytest.mark.parametrize("scale", [2.0**-27, 2.0**27])  # exact, so that no rounding differs
def test_the_scale_of_the_gradient_does_not_matter(name, scale):
    one, scaled = start(name), start(name)
    if name == "soap":  # on the square one alone: where a covariance has a null space, its basis is arbitrary
        for each in (one, scaled):
            each.params = each.params[2:3]
    one.run(range(3))
    scaled.run(range(3), scale)
    for a, b in zip(one.params, scaled.params):  # LAPACK's eigh scales what is large, and rounds
        assert torch.allclose(a, b, atol=1e-2 if name == "soap" else 1e-4), name


def test_autocast_does_not_lower_the_polar():
    (model, optimizer), (plain, twin) = three(), three()
    give(model, 0), give(plain, 0)
    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step()
    twin.step()
    assert all(torch.equal(model[k], plain[k]) for k in model)


@pytest.mark.parametrize("schedule", ["restart", "polish", "warm", "algorithm3"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_every_schedule_takes_every_precision(schedule, dtype):
    p = nn.Parameter(matrix(TALL, 1).to(dtype))
    optimizer = Aurora([p], lr=0.1, schedule=schedule)
    for seed in (2, 3, 4):
        before = p.detach().clone()
        p.grad = matrix(TALL, seed).to(dtype)
        p.grad[0] *= 1e-6  # a row scale beyond float16's range
        optimizer.step()
        assert p.isfinite().all() and not torch.equal(before, p)


@every_chain
def test_low_precision_weights(name):
    p = nn.Parameter(matrix(TALL).bfloat16())
    optimizer = CHAINS[name]([p], 0.1)
    p.grad = matrix(TALL, 1).bfloat16()
    before = p.detach().clone()
    optimizer.step()
    assert p.dtype == torch.bfloat16 and not torch.equal(p, before) and p.isfinite().all()


def test_closure_groups_schedulers_and_no_momentum():
    model, _ = three()
    optimizer = Muon([dict(params=[model["tall"]], lr=0.3), dict(params=[model["wide"], model["also"]])],
                     lr=0.1, momentum=0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = {k: p.clone() for k, p in model.items()}

    def closure():
        assert torch.is_grad_enabled()
        give(model, 0)
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.15, 0.05]
    moved = {k: (before[k] * (1 - lr * 0.025) - model[k]) / lr for k, lr in (("tall", 0.3), ("wide", 0.1))}
    assert torch.allclose(moved["tall"], 2 * polar(matrix(TALL, 0)), atol=1e-4)  # sqrt(96 / 24) = 2
    assert torch.allclose(moved["wide"], polar(matrix(WIDE, 1)), atol=1e-4)


@pytest.mark.parametrize("name", [
    name if name in ("polish", "riemannian", "soap", "track3-17")
    else pytest.param(name, marks=pytest.mark.long)
    for name in CHAINS])
def test_a_schedule_does_not_recompile(name, monkeypatch):
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    chained = start(name)
    compiled = torch.compile(run_chain, dynamic=False, backend="eager")
    monkeypatch.setattr("optimizers.matrix.run_chain", compiled)
    chained.run(range(2))  # the first step may have a graph of its own
    graphs = counts["stats"]["unique_graphs"]
    for step in range(2, 6):
        for group in chained.optimizer.param_groups:
            group.update(lr=0.1 / step, weight_decay=0.01 * step, momentum=0.9 + 0.01 * step)
        chained.run([step])
    assert graphs > 0 and counts["stats"]["unique_graphs"] == graphs


def test_a_chain_of_ones_own():
    class Sign(Polar):
        def __call__(self, update, ctx):
            return update.sign()

    p = nn.Parameter(torch.zeros(4, 3))
    optimizer = MatrixOptimizer([p], (Nesterov(), Sign()), lr=0.5)
    p.grad = torch.full((4, 3), -2.0)
    optimizer.step()
    assert (p == 0.5).all()


# ---------------------------------------------------------------- gradients that are missing or not finite


@every_chain
@pytest.mark.parametrize("guarded", [False, True], ids=["own check", "found_inf"])
def test_a_missing_gradient_leaves_weight_and_state(name, guarded):
    part, whole = start(name), start(name)  # the second gets every gradient
    for each in (part, whole):
        each.run([0])
        each.give(1)
    if guarded:
        part.optimizer.found_inf = torch.tensor(0.0)
    missing = part.params[3]
    missing.grad = None
    weight = missing.detach().clone()
    state = {name: value.clone() for name, value in part.optimizer.state[missing].items()}
    part.optimizer.step(), whole.optimizer.step()
    assert torch.equal(missing, weight) and state
    assert all(torch.equal(part.optimizer.state[missing][name], value) for name, value in state.items())
    for i in (0, 1, 2, 4):  # of one stack with it, and of others
        assert torch.equal(part.params[i], whole.params[i])
    part.run([2])
    assert not torch.equal(missing, weight)


def test_no_gradient_at_all_is_no_step():
    model, optimizer = three()
    before = {k: p.clone() for k, p in model.items()}
    optimizer.step()
    assert all(torch.equal(before[k], model[k]) for k in model) and optimizer.param_groups[0]["step"] == 0


@every_chain
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_names_the_parameter(name, value):
    chained = start(name)
    chained.run([0])
    before = kept(chained)
    chained.give(1)
    chained.params[1].grad[2, 3] = value
    kind = type(chained.optimizer).__name__
    with pytest.raises(FloatingPointError, match=f"{kind}: non-finite gradient in p1"):
        chained.optimizer.step()
    assert same(kept(chained), before)


@every_chain
def test_found_inf_skips_the_update(name):
    chained = start(name)
    chained.give(0)
    before = [p.detach().clone() for p in chained.params]
    chained.optimizer.found_inf = torch.tensor(1.0)
    chained.optimizer.step()
    assert all(map(torch.equal, before, chained.params))
    chained.optimizer.found_inf = torch.tensor(0.0)
    chained.optimizer.step()
    assert not any(map(torch.equal, before, chained.params))


@every_chain
def test_zero_and_non_finite_gradients(name):
    chained = start(name)
    for p in chained.params:
        p.grad = torch.zeros_like(p)
    chained.optimizer.step()
    assert all(p.isfinite().all() for p in chained.params)
    chained.run([1])
    before = kept(chained)
    for p in chained.params:
        p.grad = torch.full_like(p, float("nan"))
    chained.optimizer.found_inf = torch.tensor(1.0)
    chained.optimizer.step()
    assert same(kept(chained), before)
    del chained.optimizer.found_inf
    chained.run([3])
    assert all(p.isfinite().all() for p in chained.params)


@pytest.mark.parametrize("name", [*CHAINS, "without nesterov"])
def test_a_step_that_may_be_skipped(name):
    """As on CUDA, where the flag is a tensor that no host looks at."""
    p = nn.Parameter(matrix(TALL, 1))
    make = CHAINS.get(name, lambda p, lr: Muon(p, lr, nesterov=False))
    optimizer = make([p], 0.1)
    for step in range(2):
        p.grad = matrix(TALL, 100 * step)
        optimizer.step()
    state = {key: value[None].clone() for key, value in optimizer.state[p].items()}
    scalars = dict.fromkeys(("lr", "lr_peak", "weight_decay", "momentum", "step"), torch.tensor(0.1))
    weight, grad = p.detach()[None], matrix(TALL, 7)[None]

    def step(grad, skip):
        after = {key: value.clone() for key, value in state.items()}
        return run_chain(optimizer.chain, weight, grad, after, scalars, "rows", False, skip), after

    new, after = step(grad, torch.tensor([False]))
    known, after_known = step(grad, None)
    assert torch.equal(new, known) and not torch.equal(new, weight)
    assert all(torch.equal(after[key], after_known[key]) for key in state)
    assert not torch.equal(after["momentum"], state["momentum"])
    kept, after = step(grad * float("nan"), torch.tensor([True]))
    assert torch.equal(kept, weight) and all(torch.equal(after[key], state[key]) for key in state)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("make, words", [
    (lambda: Aurora([nn.Parameter(torch.zeros(4))], lr=0.1), ["shape (4,)", "AdamW"]),
    (lambda: Aurora([nn.Parameter(torch.zeros(2, 3, 4))], lr=0.1), ["2-D", "parameter of its own"]),
    (lambda: Aurora([nn.Parameter(torch.zeros(2, 3, 4, 4))], lr=0.1), ["2-D", "height * width"]),
    (lambda: Aurora([nn.Parameter(torch.zeros(0, 4))], lr=0.1), ["shape (0, 4)"]),
    (lambda: Muon([nn.Parameter(torch.eye(3))], lr=-1), ["lr", "-1"]),
    (lambda: Muon([nn.Parameter(torch.eye(3))], lr=0.1, momentum=1.0), ["momentum", "1.0"]),
    (lambda: Muon([nn.Parameter(torch.eye(3))], lr=0.1, weight_decay=-0.1), ["weight_decay", "-0.1"]),
    (lambda: Aurora([nn.Parameter(torch.eye(3))], lr=0.1, balance="row"), ["balance", "row"]),
    (lambda: Aurora([nn.Parameter(torch.eye(3))], lr=0.1, iterations=0), ["iterations", "0"]),
    (lambda: Aurora([nn.Parameter(torch.eye(3))], lr=0.1, beta=2.0), ["beta", "2.0"]),
    (lambda: Aurora([("head.bias", nn.Parameter(torch.zeros(4)))], lr=0.1), ["head.bias"]),
])
def test_bad_arguments(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("kind, key", [(Aurora, "beta"), (Aurora, "schedule"), (Aurora, "polar"),
                                       (NorMuon, "beta2"), (Muon, "nesterov"), (Muon, "process_group")])
def test_a_group_with_what_is_the_optimizers_is_refused(kind, key):
    group = dict(params=[nn.Parameter(matrix(TALL, 1))], **{key: 0.5})
    with pytest.raises(ValueError, match=f"{key} is the optimizer's"):
        kind([group], lr=0.1)
    kind([dict(params=group["params"], label="mine")], lr=0.1)  # what nobody reads is the caller's


def test_a_refused_group_is_not_kept():
    model, optimizer = three(Muon)
    with pytest.raises(ValueError, match="2-D"):
        optimizer.add_param_group(dict(params=[("bias", nn.Parameter(torch.zeros(4)))]))
    give(model, 0)
    optimizer.step()
    assert len(optimizer.param_groups) == 1


def test_a_sparse_gradient_is_refused():
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = Muon(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()


def test_send_is_for_sharded_parameters_alone():
    p = nn.Parameter(torch.ones(4, 2))
    with pytest.raises(ValueError, match="not sharded"):
        Muon([p], lr=0.1).send(p, torch.ones(4, 2))
