"""Wrappers around the optimizers: by formula, and in the trainer."""
from dataclasses import replace

import pytest
import torch

import train_gpt
from optimizers import RECIPES, EmaNesterov, TailAverage
from speedrun.log.reader import read_log
from tests.support.wrapped import Wrapped


def test_ema_nesterov():
    wrapped = Wrapped(EmaNesterov(0.6, 0.9, first=2, last=4))
    model = wrapped.model
    W, m, end = model.layer.weight.detach().clone(), 0.0, model.layer.weight.detach().clone()
    for step in range(6):
        if 2 <= step < 4:
            W = W + 0.6 * 0.5 * m
        W = W - 0.5 * 0.1 * (step + 2)
        m = 0.9 * m + 0.1 * (W - end)
        end = W.clone()
    wrapped.run(range(6))
    assert torch.allclose(model.layer.weight, W, atol=1e-6)
    assert model.embed.weight.dtype == torch.bfloat16


def test_tail_average_is_read_out_and_leaves_the_weights():
    wrapped = Wrapped(TailAverage(first=2, horizon=4, weight=0.6))
    model = wrapped.model
    embedding, W, average = model.embed.weight, model.layer.weight.detach().clone(), None
    for step in range(5):
        wrapped.run([step])
        W = W - 0.5 * 0.1 * (step + 2)
        average = W if step == 1 else average + (W - average) / 4 if step > 1 else None
        kept, embedded = model.layer.weight.detach().clone(), embedding.detach().clone()
        with wrapped.readout():
            expected = W if average is None else 0.4 * W + 0.6 * average
            assert torch.allclose(model.layer.weight, expected, atol=1e-6)
            assert torch.equal(embedding, embedded)
        assert torch.equal(model.layer.weight, kept)


@pytest.mark.process
def test_the_trainer_reads_out_the_average(laptop, tmp_path, monkeypatch):
    losses = {}
    for name, wrappers in (("plain", ()), ("tail", (TailAverage(2, 2, 0.5),))):
        monkeypatch.setitem(RECIPES, name, replace(RECIPES["muon"], name=name, wrappers=wrappers))
        args = ["--track", "laptop", "--recipe", name, "--steps", "4", "--val-every", "1", "--device", "cpu",
                "--data-dir", laptop, "--log-dir", tmp_path / name, "--allow-custom",
                "--track.val_tokens", "4096", "--track.tokens_per_step", "1024"]
        assert train_gpt.main([str(a) for a in args]) == 0
        (log,) = (read_log(path) for path in (tmp_path / name).glob("*.txt"))
        losses[name] = [point.val_loss for point in log.series[0]]
        assert log.header["recipe"]["wrappers"] == [repr(w) for w in wrappers]
    # At step 2 the average is the weights themselves; from step 3 on it lags behind.
    assert losses["plain"][:3] == losses["tail"][:3]
    assert losses["plain"][3:] != losses["tail"][3:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rewind_takes_back_exactly_what_was_added(dtype):
    p = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).to(dtype))
    average = EmaNesterov(first=0).attach([("p", p)], [torch.optim.SGD([p], 0.1)])
    for _ in range(3):
        kept = p.detach().clone()
        average.before_forward()
        average.rewind()
        assert torch.equal(p, kept)
        with torch.no_grad():
            p.sub_(torch.full_like(p, 1 / 3))
        average.after_step()
