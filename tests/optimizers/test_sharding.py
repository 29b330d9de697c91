"""Sharded over ranks (gloo, real processes): bit-equal weights and a state that any world size can load."""
import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from optimizers import Aurora, Decay, MatrixOptimizer, Nesterov, NorMuon, Polar, Soap

pytestmark = pytest.mark.process

# Uneven: 4, 1 and 2 of a shape.
SHAPES = [(48, 16), (16, 48), (48, 16), (24, 24), (48, 16), (24, 24), (48, 16)]


def parameters():
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=g)) for s in SHAPES]


def warm(params, **more):
    return Aurora(params, schedule="warm", **more)


def soap(params, lr, process_group):
    return MatrixOptimizer(params, (Nesterov(), Soap(), Polar(), Decay()), lr, process_group=process_group)


KINDS = dict(aurora=Aurora, warm=warm, normuon=NorMuon, soap=soap)  # those that keep more than momentum, too


def train_one(kind, rank, world, loaded, steps, bad):
    """What a rank has after these steps of the optimizer KINDS[kind]; `start`: its state before the first."""
    params = parameters()
    names = [(f"p{i}", p) for i, p in enumerate(params)]
    optimizer = KINDS[kind](names[steps[0] > 3:], lr=0.1, process_group=dist.group.WORLD)
    if loaded:
        optimizer.load_state_dict(loaded["optimizer"])
        for p, value in zip(params, loaded["params"]):
            p.data.copy_(value)
    error, start = None, optimizer.state_dict()["state"]
    for step in range(*steps):
        g = torch.Generator().manual_seed(1000 + step)
        for p in params:  # the ranks' gradients sum to the same on every world size, exactly
            p.grad = torch.randn(p.shape, generator=g) / world
        if step == 3:  # so that what is left of its stack has other owners
            for of_each in ("params", "param_names"):
                optimizer.param_groups[0][of_each].pop(0)
            optimizer.state[params[5]]["momentum"] = torch.full(SHAPES[5], 0.5)  # on every rank alike
        if step == 1:  # nobody used one, and only the last rank another
            params[2].grad, params[4].grad = None, params[4].grad * world if rank == world - 1 else None
        if step == 0 and world > 1:  # one of four: refused, and what is on its way is not the next step's
            optimizer.send(params[0], torch.ones(SHAPES[0]))
            with pytest.raises(RuntimeError, match="some gradients were given to send"):
                optimizer.step()
        if bad and rank == world - 1:
            params[3].grad[0, 0] = float("nan")
        try:
            optimizer.step()
        except FloatingPointError as raised:
            error = str(raised)
    owned = sum(len(s) > 0 for s in optimizer.state.values())
    return dict(params=[p.data for p in params], optimizer=optimizer.state_dict(), owned=owned, error=error,
                start=start, held=len(optimizer.state))


def worker(rank, world, port, folder, load, steps, bad):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    saved = torch.load(load, weights_only=True) if load else dict.fromkeys(KINDS)
    found = {kind: train_one(kind, rank, world, saved[kind], steps, bad) for kind in KINDS}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def train(world, folder, load=None, steps=(0, 3), bad=False):
    """Every rank's outcome."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["torch", "optimizers"])  # imported once, not by every rank
    mp.start_processes(worker, (world, port, str(folder), load, steps, bad), world, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return train(1, tmp_path_factory.mktemp("single") / "0")[0]


@pytest.mark.parametrize("world", [2, 4])
def test_weights_are_bit_equal_and_the_state_is_complete(single, tmp_path, world):
    ranks = train(world, tmp_path / "a")
    for kind, alone in single.items():
        state = alone["optimizer"]["state"]
        assert len(state) == len(SHAPES)
        for found in ranks:
            assert all(torch.equal(a, b) for a, b in zip(found[kind]["params"], alone["params"])), kind
            there = found[kind]["optimizer"]["state"]
            assert all(torch.equal(there[i][name], value)
                       for i, s in state.items() for name, value in s.items())
        assert sum(found[kind]["owned"] for found in ranks) == len(SHAPES)  # each state lives on one rank
        # Every rank has an entry for each parameter, or torch's checkpoints would step on some ranks alone.
        assert all(found[kind]["held"] == len(SHAPES) for found in ranks)
        for found in ranks:  # complete before the first step, too
            assert all(found[kind]["start"][i].keys() == s.keys() for i, s in state.items()), kind
    assert all(len(single[kind]["optimizer"]["state"][0]) > 1 for kind in ("warm", "normuon", "soap"))


def test_a_state_saved_at_one_world_size_continues_at_another(tmp_path):
    whole = train(1, tmp_path / "whole", steps=(0, 6))[0]
    train(2, tmp_path / "two", steps=(0, 2))
    train(4, tmp_path / "four", load=str(tmp_path / "two/rank1.pt"), steps=(2, 4))
    last = train(1, tmp_path / "one", load=str(tmp_path / "four/rank3.pt"), steps=(4, 6))[0]
    for kind in KINDS:
        assert all(torch.equal(a, b) for a, b in zip(last[kind]["params"], whole[kind]["params"])), kind


def test_one_ranks_bad_gradient_stops_every_rank(tmp_path):
    for found in train(2, tmp_path / "a", steps=(0, 1), bad=True):
        for kind in KINDS:
            assert "non-finite gradient in p3" in found[kind]["error"]
            assert all(torch.equal(a, b) for a, b in zip(found[kind]["params"], parameters()))
