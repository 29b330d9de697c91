"""The fast path gives what the plain one gives: chunked loss, one compiled block, gradients sent early."""
import contextlib
import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import optimizers.matrix
import speedrun.training.chunked
import train_gpt
from optimizers import build_optimizers, resolve
from optimizers.diagnostics import activation_dead
from optimizers.stage import run_chain
from speedrun.log.reader import read_log
from speedrun.training import gradients
from speedrun.training.estimate import bytes_per_step
from speedrun.training.gradients import Gradients, buckets_of
from speedrun.training.world import World
from tracks import GPT2_SMALL, ModelConfig
from train_gpt import GPT, initialise

pytestmark = pytest.mark.process

TINY = dict(vocab_size=300, num_layers=3, model_dim=64, head_dim=32)


def model_of(dtype="float32"):
    model = GPT(ModelConfig(**TINY, dtype=dtype))
    initialise(model, 0)
    for name, p in model.named_parameters():
        if name.endswith("proj.weight"):  # from zero the blocks would have no gradient
            nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(0))
    return model


def tokens(seed=1, batch=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 300, (2, batch, 64), generator=g)


def outcome(model):
    """Training loss, gradients, and the loss without gradients."""
    loss = model(*tokens())
    (2 * loss).backward()
    with torch.no_grad():
        again = model(*tokens())
    return loss.detach(), again, [p.grad.float() for p in model.parameters()]


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("chunk", [100, 256, 10**6])  # 256 tokens: uneven, one chunk, more than there are
def test_the_chunked_loss_and_its_gradients(monkeypatch, dtype, bound, chunk):
    monkeypatch.setattr(speedrun.training.chunked, "CHUNK", chunk)
    plain, fast = model_of(dtype), model_of(dtype)
    fast.speed_up(compile=False)
    (loss, again, grads), (fast_loss, fast_again, fast_grads) = outcome(plain), outcome(fast)
    assert fast_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert fast_again.item() == pytest.approx(again.item(), rel=1e-6)
    for (name, _), a, b in zip(plain.named_parameters(), grads, fast_grads):
        assert (a - b).norm() <= bound * a.norm() + 1e-6, name
    assert all(a.norm() > 0 for a in fast_grads)


def test_the_logits_of_all_tokens_never_exist(monkeypatch):
    monkeypatch.setattr(speedrun.training.chunked, "CHUNK", 64)
    model, largest = model_of(), []
    model.speed_up(compile=False)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.extend(t.shape[0] for t in (out if isinstance(out, tuple) else (out,))
                           if isinstance(t, torch.Tensor) and t.ndim == 2 and t.shape[1] == 300)
            return out

    with Watch():
        model(*tokens()).backward()
    assert largest and max(largest) <= 64


def test_blocks_behind_the_first_run_one_compiled_graph(monkeypatch):
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="aot_eager", **options))
    plain, fast = model_of(), model_of()
    fast.speed_up(compile=True)
    for (a, b) in zip(outcome(plain)[2], outcome(fast)[2]):
        assert (a - b).norm() <= 1e-5 * a.norm() + 1e-6
    graphs = counts["stats"]["unique_graphs"]
    assert graphs == 6  # first block, others, head, each with gradients and without; not one a block
    outcome(fast)
    assert counts["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_nothing_is_compiled_after_the_warm_up(laptop, tmp_path, monkeypatch, fast):
    """Two seeds with validations and diagnostics, compiled on the CPU as on a GPU but for the backend."""
    torch._dynamo.reset()
    counts, compiler, warm = torch._dynamo.utils.counters, torch.compile, []
    counts.clear()

    class Compiled(GPT):
        def __init__(self, config):
            super().__init__(config)
            if not fast:
                self.compile(dynamic=False)

        def speed_up(self, compile):
            super().speed_up(compile=True)

    def warm_up(run, work=train_gpt.warm_up):
        found = work(run)
        warm.append(counts["stats"]["unique_graphs"])
        return found

    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="eager", **options))
    monkeypatch.setattr(optimizers.matrix, "run_chain", torch.compile(run_chain, dynamic=False))
    monkeypatch.setattr(train_gpt, "GPT", Compiled)
    monkeypatch.setattr(train_gpt, "warm_up", warm_up)
    assert train_gpt.main(list(map(str, [
        "--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "4096",
        "--steps", "5", "--seeds", "0", "1", "--val-every", "2", "--track.model.num_layers", "2",
        "--data-dir", laptop, "--log-dir", tmp_path, *["--fast"] * fast]))) == 0
    assert warm[0] > 3 and counts["stats"]["unique_graphs"] == warm[0]


# ---------------------------------------------------------------- gradients


def worker(rank, world_size, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    gradients.BUCKET = 5000  # many buckets in a tiny model
    world = World(rank, world_size, torch.device("cpu"))
    for overlap in (False, True):
        model = model_of("bfloat16")
        optimizers = build_optimizers(model, resolve("aurora", "laptop"), process_group=dist.group.WORLD)
        sums, found = Gradients(world, model, optimizers, overlap), []
        for step in range(2):
            for micro in range(2):
                inputs, targets = tokens(seed=10 * step + micro)
                part = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
                sums.backward(model(inputs[part], targets[part]), last=micro == 1)
            early = len(sums.sent)
            sums.finish()
            found.append({n: p.grad.clone() for n, p in model.named_parameters() if p not in sums.owners})
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
        torch.save(dict(early=early, messages=len(sums.messages), grads=found, weights=model.state_dict()),
                   f"{folder}/{overlap}{rank}.pt")
        if overlap and sums.owners:  # after a step that is refused the next one is sent anew
            matrices = next(o for o in optimizers if hasattr(o, "send"))
            for bad in (float("nan"), 1.0):
                for p in sums.owners:
                    p.grad = torch.full_like(p, bad)
                    matrices.send(p, p.grad)
                with (pytest.raises(FloatingPointError) if bad != 1 else contextlib.nullcontext()):
                    matrices.step()
            assert all(value.isfinite().all() for value in model.state_dict().values())
    dist.barrier()
    dist.destroy_process_group()


def run_worker(folder, world_size):
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["torch", "optimizers", "train_gpt"])
    mp.start_processes(worker, (world_size, port, str(folder)), world_size, start_method="forkserver")
    return {overlap: [torch.load(folder / f"{overlap}{rank}.pt", weights_only=True)
                      for rank in range(world_size)] for overlap in (False, True)}


def test_gradients_sent_during_the_backward_pass_are_the_same(tmp_path):
    two, one = run_worker(tmp_path / "2", 2), run_worker(tmp_path / "1", 1)
    assert two[True][0]["early"] == two[True][0]["messages"] > 3 + 18  # all left before finish() was called
    assert two[False][0]["early"] == 0
    for rank in (0, 1):
        for name, weight in two[False][0]["weights"].items():
            assert torch.equal(two[True][rank]["weights"][name], weight), name
    for step in (0, 1):
        for rank in (0, 1):
            for name, grad in two[False][0]["grads"][step].items():
                assert torch.equal(two[True][rank]["grads"][step][name], grad), name
                if step:  # from here on the weights of one rank are others, by their rounding
                    continue
                alone = one[False][0]["grads"][step][name]
                assert (grad.float() - alone.float()).norm() <= 1e-2 * alone.float().norm() + 1e-6, name


def test_buckets_hold_every_parameter_once_in_the_order_of_the_backward_pass():
    params = [nn.Parameter(torch.zeros(n)) for n in (10, gradients.BUCKET + 1, 10, gradients.BUCKET - 5, 6)]
    assert [[p.numel() for p in bucket] for bucket in buckets_of(params)] == [
        [6], [gradients.BUCKET - 5], [10], [gradients.BUCKET + 1], [10]]
    small = [nn.Parameter(torch.zeros(n)) for n in (1, 2, 3)]
    assert [[p.numel() for p in bucket] for bucket in buckets_of(small)] == [[3, 2, 1]]


def test_a_bucket_is_ready_before_the_next(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET", 1000)
    model, arrived = model_of(), []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(arrived.append)
    model(*tokens()).backward()
    place = {p: i for i, p in enumerate(arrived)}
    vectors_and_ends = [p for name, p in model.named_parameters() if p.ndim == 1 or "blocks" not in name]
    ready = [max(place[p] for p in bucket) for bucket in buckets_of(vectors_and_ends)]
    assert len(ready) > 3 and ready == sorted(ready)


def test_bytes_sent_by_hand():
    with torch.device("meta"):
        model = GPT(GPT2_SMALL)
    optimizers = build_optimizers(model, resolve("aurora", "fineweb-124m"))
    found = bytes_per_step(model, optimizers, 8)
    # 12 of 3072 x 768 and of 768 x 3072 go to 8 ranks as 16 slots each, 48 of 768 x 768 as 48.
    numbers = 2 * 16 * 3072 * 768 + 48 * 768 * 768
    assert found["matrix_gradients"] == found["matrix_weights"] == 7 * 4 * numbers // 8
    others = sum(p.numel() for p in model.parameters()) - 12 * (2 * 3072 + 4 * 768) * 768
    assert found["other_gradients"] == 2 * 7 * 4 * others // 8
    assert set(bytes_per_step(model, optimizers, 1).values()) == {0}
    overlapped = bytes_per_step(model, optimizers, 8, overlap=True)  # without empty slots
    assert overlapped == dict(found, matrix_gradients=7 * 4 * 12 * (2 * 3072 + 4 * 768) * 768 // 8)


def test_a_fast_run_has_the_losses_of_a_plain_one(capsys, laptop, tmp_path):
    found = []
    for more in ([], ["--fast"]):
        folder = tmp_path / f"log{len(more)}"
        assert train_gpt.main(["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens",
                               "4096", "--steps", "4", "--data-dir", str(laptop), "--log-dir", str(folder),
                               *more]) == 0, capsys.readouterr().err
        found.append(read_log(next(folder.glob("*.txt"))))
    plain, fast = ([p.val_loss for p in log.series[0]] for log in found)
    assert fast == pytest.approx(plain, abs=2e-3)
    warmup = [next(data for _, kind, data in log.events if kind == "warmup") for log in found]
    assert [w["fast"] for w in warmup] == [False, True]
    assert all(w["calibration"]["product_ms"] > 0 for w in warmup)


def test_without_gradients_none_are_taken(monkeypatch):
    model, calls = model_of(), []
    monkeypatch.setattr(speedrun.training.chunked.ChunkedLoss, "apply", lambda *args: calls.append(args))
    model.speed_up(compile=False)
    with torch.no_grad():
        assert model(*tokens()) > 0
    assert not calls


def test_dead_units_are_counted_though_the_blocks_are_compiled(monkeypatch):
    torch._dynamo.reset()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="eager", **options))
    model = model_of()
    model.speed_up(compile=True)
    with torch.no_grad():
        model(*tokens())  # compiled for this shape, before there is any hook
    assert len(activation_dead(model, *tokens())) == TINY["num_layers"]
