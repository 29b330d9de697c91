"""Groups and states that a caller edits between steps."""
import pytest
import torch
from torch import nn

from optimizers import Muon
from optimizers.balance import balances_rows
from tests.support.matrices import TALL, give, matrix, three


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
