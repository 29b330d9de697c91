"""Muon and Aurora: the published updates, and the behaviour of ordinary torch optimizers."""
import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from optimizers import (
    RECIPES,
    Aurora,
    Decay,
    MatrixOptimizer,
    Muon,
    Nesterov,
    NorMuon,
    Polar,
    Soap,
    build_optimizers,
    polar,
    resolve,
)
from optimizers.balance import balances_rows
from speedrun import ROOT
from tests.golden.inputs import SHAPES, weight_and_gradients
from tests.support.matrices import SQUARE, TALL, WIDE, matrix
from tracks import PRESETS, TRACKS
from train_gpt import GPT

WEIGHTS = json.loads((ROOT / "tests/golden/weights.json").read_text())  # see golden/make.py

# ---------------------------------------------------------------- the published updates, three steps


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["muon", "aurora"])
def test_three_steps_are_the_published_ones(kind, shape):
    W, grads = weight_and_gradients(shape)
    p = nn.Parameter(W.clone())
    optimizer = (Muon([p], lr=0.05) if kind == "muon" else
                 Aurora([p], lr=0.05, balance="long", polar="quintic12"))
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
        assert torch.equal(p.grad, g)  # the caller's gradient is not written
    rounded, plain = (torch.tensor(WEIGHTS[cast][f"{kind} {shape[0]}x{shape[1]}"]).view(shape)
                      for cast in ("bfloat16", "float"))
    # Their Newton-Schulz steps round to bfloat16's 2^-9, ours here to float32: 4e-3 to 7e-3 of the change in
    # W. Of a long side, K = 1 or 3, a beta of 1 and the other maps are 2e-2 to 1e-1 away.
    error, change = p.detach() - rounded, rounded - W
    assert error.norm() < 1e-2 * change.norm()
    assert error.abs().max() < 2e-2 * change.abs().max()
    # With their one cast to bfloat16 made one to float32, the file's last digit is what is left.
    assert torch.allclose(p, plain, rtol=0, atol=1e-5)


def test_stacks_equal_single_matrices():
    shapes = [TALL, WIDE, TALL, SQUARE, TALL]
    together = [nn.Parameter(matrix(s, i)) for i, s in enumerate(shapes)]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    optimizers = [Aurora(together, lr=0.1), *(Aurora([p], lr=0.1) for p in alone)]
    for step in range(3):
        for i, (a, b) in enumerate(zip(together, alone)):
            a.grad = matrix(a.shape, 10 * step + i)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, alone):
        assert torch.allclose(a, b, atol=1e-6)


# ---------------------------------------------------------------- an ordinary torch optimizer


def three(optimizer=Aurora, **options):
    shapes = ("tall", TALL), ("wide", WIDE), ("also", TALL)
    model = {name: nn.Parameter(matrix(s, i)) for i, (name, s) in enumerate(shapes)}
    return model, optimizer(list(model.items()), lr=0.1, **options)


def give(model, seed):
    for i, p in enumerate(model.values()):
        p.grad = matrix(p.shape, 100 * seed + i)


@pytest.mark.parametrize("optimizer", [Muon, Aurora])
def test_a_saved_state_continues_identically(optimizer):
    model, first = three(optimizer)
    for step in range(3):
        give(model, step)
        first.step()
    twin = copy.deepcopy(model)
    second = optimizer(list(twin.items()), lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(3, 6):
        for m, o in ((model, first), (twin, second)):
            give(m, step)
            o.step()
    assert all(torch.equal(model[k], twin[k]) for k in model)
    state = first.state_dict()["state"]
    assert {i: s["momentum"].shape for i, s in state.items()} == {0: TALL, 1: WIDE, 2: TALL}


def soap(params, lr):
    return MatrixOptimizer(params, (Nesterov(), Soap(), Polar(), Decay()), lr)


@pytest.mark.parametrize("guarded", [False, True], ids=["own check", "found_inf"])
@pytest.mark.parametrize("kind", [Aurora, NorMuon, soap], ids=["Aurora", "NorMuon", "Soap"])
def test_a_missing_gradient_leaves_weight_and_state(kind, guarded):
    model, optimizer = three(kind)
    whole, twin = three(kind)  # which gets every gradient
    for each, o in ((model, optimizer), (whole, twin)):
        give(each, 0)
        o.step()
        give(each, 1)
    if guarded:
        optimizer.found_inf = torch.tensor(0.0)
    model["also"].grad = None
    kept = model["also"].clone()
    state = {name: value.clone() for name, value in optimizer.state[model["also"]].items()}
    optimizer.step(), twin.step()
    assert torch.equal(model["also"], kept) and state
    assert all(torch.equal(optimizer.state[model["also"]][name], value) for name, value in state.items())
    for name in ("tall", "wide"):  # of one stack with it, and of another
        assert torch.equal(model[name], whole[name])
    give(model, 2)
    optimizer.step()
    assert not torch.equal(model["also"], kept)


def test_no_gradient_at_all_is_no_step():
    model, optimizer = three()
    before = {k: p.clone() for k, p in model.items()}
    optimizer.step()
    assert all(torch.equal(before[k], model[k]) for k in model) and optimizer.param_groups[0]["step"] == 0


def test_groups_that_are_changed_by_hand():
    """Torch's own optimizers take them as they are at each step; so do users that prune or grow."""
    model, optimizer = three(Muon)
    new, old = nn.Parameter(matrix(TALL, 7)), model["tall"]
    give(model, 0)
    optimizer.step()
    optimizer.param_groups[0]["params"][0] = new
    give(model, 1)
    new.grad = matrix(TALL, 8)
    before = {p: p.detach().clone() for p in (new, old, model["wide"])}
    optimizer.step()
    assert torch.equal(before[old], old)
    assert not torch.equal(before[new], new) and not torch.equal(before[model["wide"]], model["wide"])
    optimizer.state.clear()  # a restart: as if no step had been made
    fresh = [nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]]
    first = Muon(fresh, lr=0.1)
    for p, twin in zip(optimizer.param_groups[0]["params"], fresh):
        twin.grad = p.grad.clone()
    optimizer.step(), first.step()
    assert all(torch.equal(a, b) for a, b in zip(optimizer.param_groups[0]["params"], fresh))
    optimizer.param_groups.pop()
    kept = new.detach().clone()
    optimizer.step()
    assert torch.equal(new, kept)


def test_state_that_is_put_or_cleared_by_hand_is_taken():
    model, optimizer = three(Muon)
    give(model, 0)
    optimizer.step()
    tall, wide, also = model.values()
    optimizer.state[tall].clear()
    optimizer.state[wide] = {}
    mine = torch.full_like(also, 2.0)
    optimizer.state[also]["momentum"] = mine
    for p in model.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    kept = [optimizer.state_dict()["state"][i]["momentum"] for i in range(3)]
    assert not kept[0].any() and not kept[1].any() and torch.allclose(kept[2], 0.95 * mine)
    assert torch.equal(mine, torch.full_like(also, 2.0))  # it stays the caller's


def test_states_that_are_exchanged_by_hand_are_both_kept():
    a, b = (nn.Parameter(matrix(TALL, seed)) for seed in (1, 2))
    optimizer = Muon([a, b], lr=0.1, momentum=0.5)
    a.grad, b.grad = torch.ones_like(a), torch.full_like(b, 8.0)
    optimizer.step()
    optimizer.state[a], optimizer.state[b] = optimizer.state[b], optimizer.state[a]
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    optimizer.step()
    assert optimizer.state[a]["momentum"].unique().tolist() == [2.0]
    assert optimizer.state[b]["momentum"].unique().tolist() == [0.25]


def test_a_parameter_that_leaves_or_joins_by_hand_is_saved_trained_and_named_right():
    a, b, c = (nn.Parameter(matrix(TALL, seed)) for seed in (1, 2, 3))
    optimizer = Muon([("a", a), ("b", b)], lr=0.1)
    for p in (a, b, c):
        p.grad = matrix(TALL, 4)
    optimizer.step()
    optimizer.param_groups[0]["params"].pop(0)
    assert len(optimizer.state_dict()["state"]) == 1  # that of b
    optimizer.param_groups[0]["params"] += [a, c]
    before = c.detach().clone()
    optimizer.step()
    assert not torch.equal(before, c) and set(optimizer.state) == {a, b, c}
    b.grad[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="in parameter 0 "):  # not "a": names are of other parameters
        optimizer.step()


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


@pytest.mark.parametrize("kind, key", [(Aurora, "beta"), (Aurora, "schedule"), (Aurora, "polar"),
                                       (NorMuon, "beta2"), (Muon, "nesterov"), (Muon, "process_group")])
def test_a_group_with_what_is_the_optimizers_is_refused(kind, key):
    group = dict(params=[nn.Parameter(matrix(TALL, 1))], **{key: 0.5})
    with pytest.raises(ValueError, match=f"{key} is the optimizer's"):
        kind([group], lr=0.1)
    kind([dict(params=group["params"], label="mine")], lr=0.1)  # what nobody reads is the caller's


@pytest.mark.parametrize("wrap", [torch.compile, lambda model: nn.ModuleDict({"module": model})])
def test_a_wrapped_model_has_the_roles_of_its_parameters(wrap):
    model = GPT(TRACKS["laptop"].model)
    plain, wrapped = (build_optimizers(m, RECIPES["aurora"]) for m in (model, wrap(model)))
    for a, b in zip(plain, wrapped, strict=True):
        assert [g["params"] for g in a.param_groups] == [g["params"] for g in b.param_groups]


@pytest.mark.parametrize("now", ["long", "columns", None])
def test_a_balance_that_is_changed_by_hand(now):
    """Momentum stays; what was kept for the rows that are balanced no more does not."""
    model, optimizer = three(schedule="warm")
    give(model, 0)
    optimizer.step()
    momentum = {p: s["momentum"].clone() for p, s in optimizer.state.items()}
    optimizer.param_groups[0]["balance"] = now
    for p in model.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, before in momentum.items():
        state = optimizer.state[p]
        assert torch.allclose(state["momentum"], 0.95 * before)
        assert ("row_scale" in state) == (balances_rows(p.shape, now) is not None)


def test_the_state_of_another_optimizer_is_refused():
    model, optimizer = three(Muon)
    other = torch.optim.Muon(model.values())
    with pytest.raises(ValueError, match="Muon: this is the state of another kind.*no 'balance'"):
        optimizer.load_state_dict(other.state_dict())


def test_autocast_does_not_lower_the_polar():
    (model, optimizer), (plain, twin) = three(), three()
    give(model, 0), give(plain, 0)
    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step()
    twin.step()
    assert all(torch.equal(model[k], plain[k]) for k in model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing_and_names_the_parameter(value):
    model, optimizer = three()
    give(model, 0)
    optimizer.step()
    before = {k: p.clone() for k, p in model.items()}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    give(model, 1)
    model["wide"].grad[2, 3] = value
    with pytest.raises(FloatingPointError, match="Aurora: non-finite gradient in wide"):
        optimizer.step()
    assert all(torch.equal(before[k], model[k]) for k in model)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(state[i]["momentum"], after[i]["momentum"]) for i in state)


def test_found_inf_skips_the_update():
    model, optimizer = three()
    give(model, 0)
    before = {k: p.clone() for k, p in model.items()}
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(before[k], model[k]) for k in model)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not any(torch.equal(before[k], model[k]) for k in model)


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


def test_low_precision_weights():
    p = nn.Parameter(matrix(TALL).bfloat16())
    optimizer = Aurora([p], lr=0.1)
    p.grad = matrix(TALL, 1).bfloat16()
    before = p.detach().clone()
    optimizer.step()
    assert p.dtype == torch.bfloat16 and not torch.equal(p, before) and p.isfinite().all()


# ---------------------------------------------------------------- recipes and roles


@pytest.mark.parametrize("track", ["laptop", "350m"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_parameter_has_one_optimizer_and_its_role(name, track):
    with torch.device("meta"):
        model = GPT({**TRACKS, **PRESETS}[track].model)
    recipe = resolve(name, track)
    optimizers = build_optimizers(model, recipe)
    owned = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))
    lrs = {id(p): g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert lrs[id(model.embed.weight)] == recipe.aux.embed_lr
    assert lrs[id(model.proj.weight)] == recipe.aux.head_lr
    assert lrs[id(model.norm1.gains)] == recipe.aux.vector_lr
    assert lrs[id(model.blocks[0].attn.proj.weight)] == recipe.lr
    if name == "aurora":
        balance = {id(p): g["balance"] for g in optimizers[1].param_groups for p in g["params"]}
        mlp = model.blocks[0].mlp
        tall = [mlp.fc] if track == "laptop" else [mlp.gate, mlp.up]
        assert [balance[id(m.weight)] for m in tall] == ["rows"] * len(tall)
        assert balance[id(model.blocks[0].attn.q.weight)] is None


def test_the_published_constants():
    muon, aurora, adamw = (RECIPES[name] for name in ("muon", "aurora", "adamw"))
    assert (muon.lr, muon.weight_decay, muon.steps) == (0.025, 0.05, 3250)
    assert (muon.cooldown_frac, muon.momentum) == (0.7, 0.95)
    assert (aurora.lr, aurora.weight_decay, aurora.steps) == (0.035, 0.025, 3250)
    for aux in (muon.aux, aurora.aux):
        assert (aux.embed_lr, aux.head_lr, aux.vector_lr, aux.weight_decay) == (0.7, 0.004, 0.015, 0.001)
        assert (aux.beta1, aux.beta2, aux.eps) == (0.8, 0.95, 1e-10)
    assert (adamw.lr, adamw.weight_decay, adamw.steps, adamw.warmup_steps) == (0.0015, 0.1, 5625, 250)
    assert (adamw.matrices.beta1, adamw.matrices.beta2, adamw.matrices.eps) == (0.9, 0.95, 1e-10)
    aux = adamw.aux
    assert (aux.embed_lr, aux.head_lr, aux.vector_lr, aux.weight_decay) == (0.3, 1 / 320, 0.01, 0)


def test_a_model_with_other_names_is_refused():
    with pytest.raises(ValueError, match="no role for weight"):
        build_optimizers(nn.Linear(3, 4), RECIPES["muon"])


def test_a_chain_of_ones_own():
    class Sign(Polar):
        def __call__(self, update, ctx):
            return update.sign()

    p = nn.Parameter(torch.zeros(4, 3))
    optimizer = MatrixOptimizer([p], (Nesterov(), Sign()), lr=0.5)
    p.grad = torch.full((4, 3), -2.0)
    optimizer.step()
    assert (p == 0.5).all()


def test_send_is_for_sharded_parameters_alone():
    p = nn.Parameter(torch.ones(4, 2))
    with pytest.raises(ValueError, match="not sharded"):
        Muon([p], lr=0.1).send(p, torch.ones(4, 2))


def test_a_copy_of_an_optimizer_goes_on_alike():
    p = nn.Parameter(torch.randn(8, 4))
    optimizer = Muon([p], lr=0.1)
    p.grad = torch.randn(8, 4)
    optimizer.step()
    twin, twins = copy.deepcopy((p, optimizer)), []
    for parameter, each in ((p, optimizer), twin):
        parameter.grad = torch.ones(8, 4)
        each.step()
        twins.append(parameter.detach())
    assert torch.equal(*twins) and twin[0] is not p
