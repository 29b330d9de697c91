"""What is not finite stops a run, with its weights intact."""
import re

import pytest
import torch

import train_gpt
from speedrun.training.gradients import Gradients
from speedrun.training.world import StopSignal, World
from tests.support.trainer import QUICK, the_log
from train_gpt import GPT, initialise

pytestmark = pytest.mark.process


@pytest.mark.parametrize("recipe", ["aurora", "adamw"])
def test_divergence_stops_with_weights_intact(laptop, tmp_path, recipe):
    plan = train_gpt.parse([*QUICK, "--recipe", recipe, "--data-dir", str(laptop)])
    world = World(0, 1, torch.device("cpu"))
    streams = train_gpt.open_streams(plan, world)
    run = train_gpt.Run(plan, world, GPT(plan.track.model), *streams, StopSignal(), flops=0.0)
    initialise(run.model, 0)
    optimizers, guard = run.optimizers(), run.guard(seed=4)
    gradients = Gradients(world, run.model, optimizers)
    for step in range(2):
        loss = train_gpt.forward_backward(run, gradients, *map(run.tokens, run.train[step]))
        if step == 1:
            run.model.blocks[2].mlp.fc.weight.grad[3, 5] = float("inf")
            before = [p.clone() for p in run.model.parameters()]
            state = [s.clone() for o in optimizers for p in o.state.values() for s in p.values()]
        train_gpt.update(run, gradients, optimizers, guard, step, loss)
        guard.check_weights(step + 1)
    message = r"seed 4 diverged at step 1.*blocks\.2\.mlp\.fc\.weight.*intact"
    with pytest.raises(train_gpt.Diverged, match=message):
        guard.raise_if_bad()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters()))
    assert all(torch.equal(a, b) for a, b in
               zip(state, [s for o in optimizers for p in o.state.values() for s in p.values()]))


@pytest.mark.parametrize("every, remedy", [
    (250, r"no checkpoint was written yet: start again with .*\(--recipe\.lr\)"),
    (1, r"the last good checkpoint is (checkpoint_000_\d{7}): .* --resume (\S+); .*--recipe\.lr.*--log-dir"),
])
def test_a_learning_rate_that_diverges(capsys, laptop, tmp_path, every, remedy):
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe.lr", "1e30",
                           "--checkpoint-every", str(every)])
    err = capsys.readouterr().err
    assert code == 1 and len(err.splitlines()) == 1 and "diverged at step" in err
    found = re.search(remedy, err)
    assert found, err
    if every == 1:  # it is there, and the newest
        name, folder = found.groups()
        assert name == max(path.stem for path in tmp_path.glob("*.pt")) and folder == str(tmp_path)
    assert the_log(tmp_path).status == "diverged" and the_log(tmp_path).problems == []


def test_an_update_that_is_not_finite_is_in_no_checkpoint(capsys, laptop, tmp_path):
    """lr u overflows, though the gradients are finite; the second checkpoint would hold it."""
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe", "muon",
                           "--recipe.lr", "3e38", "--recipe.aux.head_lr", "1e38", "--checkpoint-every", "1"])
    err = capsys.readouterr().err
    found = re.search(r"seed 0 diverged before step 1: .* made \S+ non-finite; no checkpoint", err)
    assert code == 1 and found, err
    assert not [*tmp_path.glob("*.pt")] and the_log(tmp_path).status == "diverged"


def test_a_divergence_says_whether_the_weights_are_intact(capsys, laptop, tmp_path):
    train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", tmp_path, "--recipe", "muon",
                    "--recipe.lr", "3e38", "--recipe.aux.head_lr", "1e38"])
    err = capsys.readouterr().err
    assert re.search(r"diverged at step 1: .*; that update was not applied and one before it had made \S+ "
                     "non-finite; no checkpoint", err), err
