"""What no run of a track can have: a first loss other than ln V, no figures of its optimizer, or a time that
its hardware cannot keep.

Each check takes a LoggedRun and yields what is wrong.
"""
import math

from speedrun.log.header import number
from speedrun.log.peaks import THREAD_FLOPS, peak_flops
from speedrun.log.run import LoggedRun

FIRST_LOSS = 2e-3  # nats either way of ln V at step 0: the head starts at zero, so logits are equal


def first_loss(run: LoggedRun):
    """The loss at step 0 is ln V: every recipe starts from a head of zeros."""
    expected = math.log(run.track.model.vocab_size)
    for seed, points in run.log.series.items():
        if points[0].step == 0 and not abs(points[0].val_loss - expected) <= FIRST_LOSS:
            yield (f"seed {seed} starts at a loss of {points[0].val_loss:.5f}; untrained it is ln "
                   f"{run.track.model.vocab_size} = {expected:.5f}")


def figures(run: LoggedRun):
    """Each seed has diagnostics at its end, of each kind of matrix that the recipe's chain moves, a figure a
    layer: an update that is not zero, and not further from orthogonal than a polar factor can be."""
    last = {data.get("seed"): data for _, data in run.of_kind("diagnostics")
            if data.get("step") == run.recipe.steps}
    for seed in run.log.series:
        if wrong := _wrong_figures(run, last.get(seed)):
            yield f"seed {seed}: {wrong}"


def _wrong_figures(run: LoggedRun, data: dict | None) -> str | None:
    model, layers = run.track.model, run.track.model.num_layers
    if data is None:
        return "no diagnostics at its last step"
    if not _figures(data.get("activation_dead"), layers):
        return f"no share of dead units of each of the {layers} layers"
    kinds = {key for key in data if key.startswith("blocks.")}
    if not isinstance(run.header["recipe"]["matrices"], list):  # AdamW: no chain, nothing of one to tell
        return f"diagnostics of a chain ({min(kinds)}), which AdamW has not" if kinds else None
    mlp = ("fc", "proj") if model.mlp == "relu2" else ("gate", "up", "down")
    parts = [f"attn.{name}" for name in ("q", "k", "v", "proj")] + [f"mlp.{name}" for name in mlp]
    medians = []
    for kind in (f"blocks.{part}" for part in parts):
        found = data.get(kind) if isinstance(data.get(kind), dict) else {}
        ratios, errors = found.get("update_ratio"), found.get("orthogonality")
        if not (_figures(ratios, layers) and _figures(errors, layers)):
            return f"no figures of {kind} for each of the {layers} layers"
        if min(ratios) <= 0:
            return f"an update of {kind} is zero at the last step"
        medians.append(sorted(errors)[layers // 2])
    if min(medians) >= 0.9:
        return "no matrix has an update near an orthogonal one, which a polar factor gives"
    return None


def _figures(values, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(map(number, values))


def least_seconds(run: LoggedRun) -> float | None:
    """Seconds below which this hardware cannot do the matrix products of a seed's steps, None where its peak
    is not known. Counted a token: 6 for each weight of a hidden matrix or the head, and 6 L T d for causal
    attention (forward and backward, half of the square); optimizer, norms and softmax not at all."""
    model, hardware = run.track.model, run.header["hardware"]
    hidden = (3 if model.mlp == "swiglu" else 2) * model.mlp_ratio
    weights = model.num_layers * (4 + hidden) * model.model_dim**2 + model.vocab_size * model.model_dim
    token = 6 * weights + 6 * model.num_layers * run.track.context * model.model_dim
    flops = token * run.track.tokens_per_step * (run.recipe.steps - run.start[0])
    if hardware["device"] == "cuda":
        peak = peak_flops(str(hardware["name"]))
    else:
        peak = THREAD_FLOPS.get(model.dtype, THREAD_FLOPS["bfloat16"]) * hardware["threads"]
    return None if peak is None else flops / peak / run.header["world_size"]


def seconds(run: LoggedRun):
    """The training clock of each seed shows at least what the hardware's peak allows."""
    least = least_seconds(run)
    for seed, points in run.log.series.items():
        took = points[-1].train_time - run.start[1]
        if least is not None and took < least:
            yield (f"seed {seed} trained in {took:.1f} s; at the peak of {run.header['world_size']} x "
                   f"{run.header['hardware']['name']} its matrix products alone take {least:.1f} s")


CHECKS = (first_loss, figures, seconds)
