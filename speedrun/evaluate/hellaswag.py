"""HellaSwag accuracy of a model: its weights, the sequences it reads, their scores, what is said of them."""
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from data import hellaswag
from data.hellaswag import Item
from data.hub import library
from data.tokenize_text import load_gpt2
from speedrun import ROOT
from speedrun.cli import Refusal, near
from speedrun.log.format import NO_END
from speedrun.log.reader import read_log
from speedrun.text import printable
from tracks import PRESETS, TRACKS, ModelConfig
from train_gpt import GPT

LEVEL = 0.95
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}  # inputs of one forward pass, padding counted


########################################
#              The model               #
########################################


@dataclass(frozen=True)
class Described:
    """Which model a file of weights belongs to."""

    track: str
    config: ModelConfig
    context: int


def describe(weights: Path, name: str | None) -> Described:
    """The model of track `name`, else of the log beside the weights. Refusal where there is no such one."""
    tracks = {**TRACKS, **PRESETS}
    if name is not None:
        if name not in tracks:
            raise Refusal(f"unknown track {name!r}; {near(name, tracks)}", code=2)
        return Described(name, tracks[name].model, tracks[name].context)
    check_there(weights)
    logs = sorted(weights.parent.glob("*.txt"))
    if len(logs) != 1:
        raise Refusal(f"{weights}: {len(logs)} logs (*.txt) stand beside it, not one, so its model is not "
                      "known; name it with --track NAME", code=2)
    log = read_log(logs[0])
    wrong = [f"line {line}: {what}" for line, what in log.problems if not what.startswith(NO_END)]
    try:
        track = log.header["track"]
        name = printable(track["name"], 60) + ("" if track["official"] else " (custom)")
        described = Described(name, ModelConfig(**track["model"]), int(track["context"]))
        if described.context < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        wrong.append("no track in its header")
    if wrong:
        raise Refusal(f"{logs[0]}: this log does not say which model it trained ({wrong[0]}); name it with "
                      "--track NAME")
    return described


def check_there(weights: Path) -> None:
    if not weights.is_file():
        raise Refusal(f"{weights}: no such file; give the weights that `train_gpt.py --save` wrote", code=2)


def load(weights: Path, described: Described, device: str) -> GPT:
    """The model with the weights of `weights`; unpickles nothing but tensors. Raises Refusal."""
    check_there(weights)
    try:
        with torch.device("meta"):
            model = GPT(described.config)
        state = torch.load(weights, map_location=device, weights_only=True)
        model.load_state_dict(state, assign=True)
    except Exception as error:  # torch.load names no end of them: for damage, another kind of file, ...
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"{weights}: does not load as the model of {described.track} ({reason}); give weights "
                      "that `train_gpt.py --save` wrote and, with --track, their track") from None
    return model.to(device).eval()


def encoder(vocab_size: int):
    """The tokenizer (text -> list of ids) of the models with this vocabulary. Raises Refusal."""
    if vocab_size == 256:
        return lambda text: list(text.encode())
    if vocab_size not in (50257, 50304):  # GPT-2's, and padded to a multiple of 64
        raise Refusal(f"no tokenizer is known for a vocabulary of {vocab_size}; known: 256 (bytes), 50257 "
                      "and 50304 (GPT-2)")
    load_gpt2()
    return library("tiktoken").get_encoding("gpt2").encode_ordinary


########################################
#               Scoring                #
########################################


@dataclass(frozen=True)
class Sequence:
    """The tokens of a query and one ending; the last `scored` are those of the ending."""

    tokens: list[int]
    scored: int


def sequences(items: list[Item], encode, context: int) -> tuple[list[Sequence], dict]:
    """Four sequences an item, in order, and how many were cut. A model of `context` positions reads at most
    context + 1 tokens (the last is only predicted), so the first ones of a longer sequence are left out.

    GPT-2's pattern never joins a word to the space after it, so the tokens of the parts are those of the
    whole; spaces at the end of a query belong to the ending, as in the harness.
    """
    found, contexts_cut, endings_cut = [], 0, 0
    for item in items:
        query = item.query.rstrip()
        start = encode(query)
        for ending in item.endings:
            end = encode(f"{item.query[len(query):]} {ending}")
            tokens = (start + end)[-context - 1:]
            found.append(Sequence(tokens, min(len(end), len(tokens) - 1)))
            contexts_cut += len(start) + len(end) > context + 1
            endings_cut += len(end) > context
    return found, dict(contexts_cut=contexts_cut, endings_cut=endings_cut)


def batches(found: list[Sequence], budget: int):
    """Lists of indices, longest sequences first: together with their padding at most `budget` inputs, or
    one sequence."""
    order, at = sorted(range(len(found)), key=lambda i: -len(found[i].tokens)), 0
    while at < len(order):
        count = max(1, budget // (len(found[order[at]].tokens) - 1))
        yield order[at:at + count]
        at += count


@torch.inference_mode()
def score(model: GPT, batch: list[Sequence]) -> list[float]:
    """The log-probability of each sequence's ending, in nats, in one forward pass of all of them.

    Padding stands on the right, where a causal model does not see it. The model's own loss is taken of each
    sequence's scored tokens by themselves, in place of the sum over the batch.
    """
    width, device = max(len(s.tokens) for s in batch), next(model.parameters()).device
    tokens = torch.tensor([s.tokens + [0] * (width - len(s.tokens)) for s in batch], device=device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def by_sequence(x, weight, bias, targets):
        x, targets = x.unflatten(0, inputs.shape), targets.unflatten(0, inputs.shape)
        spans = [slice(len(s.tokens) - 1 - s.scored, len(s.tokens) - 1) for s in batch]
        return torch.stack([GPT.loss(x[i, span], weight, bias, targets[i, span])
                            for i, span in enumerate(spans)])

    model.loss = by_sequence
    return (-model(inputs, targets)).tolist()


def score_all(model: GPT, found: list[Sequence], budget: int) -> np.ndarray:
    """The log-probability of every sequence, (sequences,); says every 10 s how far it is. Refusal where one
    is not finite."""
    scores, done, started = np.empty(len(found)), 0, time.monotonic()
    shown = started
    for batch in batches(found, budget):
        scores[batch] = score(model, [found[i] for i in batch])
        done += len(batch)
        if not np.isfinite(scores[batch]).all():
            raise Refusal("the model's log-probabilities are not finite, so its weights hold nan or inf and "
                          "nothing can be compared; give those of another run")
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{done:,} of {len(found):,} endings after {shown - started:.0f} s, the longest first",
                  file=sys.stderr, flush=True)
    return scores


def accuracy(scores: np.ndarray, items: list[Item]) -> dict:
    """acc and acc_norm, each with its interval. scores: (4 * items,), of `score`.

    Of equal scores the first counts. acc_norm divides by the characters of the cleaned ending, without the
    space before it: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/api/task.py,
    `process_results`. (The harness's documents call that length bytes; its code counts characters.)
    The interval is Wilson's (1927, Journal of the American Statistical Association 22, 209-212).
    """
    scores = scores.reshape(-1, 4)
    lengths = np.array([[len(ending) for ending in item.endings] for item in items])
    labels, result = np.array([item.label for item in items]), {}
    for name, values in (("acc", scores), ("acc_norm", scores / lengths)):
        right = int((values.argmax(axis=1) == labels).sum())
        interval = binomtest(right, len(items)).proportion_ci(LEVEL, method="wilson")
        result[name] = right / len(items)
        result[f"{name}_interval"] = [float(interval.low), float(interval.high)]
    return result


########################################
#             The command              #
########################################


def evaluate(weights: Path, track: str | None, data: Path | None, limit: int | None, device: str) -> dict:
    """acc, acc_norm and what they are of, plain JSON. track, data: None for those of the log beside the
    weights, and the hub's items. Refusal where the weights, the items or the tokenizer cannot be had."""
    described = describe(weights, track)
    model = load(weights, described, device)
    encode = encoder(described.config.vocab_size)
    path = data or hellaswag.fetch_items(ROOT / "data" / "hellaswag")
    all_items = hellaswag.read_items(path)
    items = all_items[:limit]
    prepared, cut = sequences(items, encode, described.context)
    started = time.monotonic()
    scores = score_all(model, prepared, BATCH_TOKENS[device])
    return dict(weights=weights.name, track=described.track, context=described.context, shots=0,
                items=len(items), items_in_file=len(all_items), quick_look=len(items) < len(all_items),
                **accuracy(scores, items), level=LEVEL, normalised_by="characters", **cut,
                data=hellaswag.about(path), device=device, seconds=round(time.monotonic() - started, 1))


def lines(found: dict) -> list[str]:
    """The result for a person."""
    text = [f"{found['weights']} ({found['track']}): HellaSwag, {found['items']:,} items, zero-shot"]
    for name, what in (("acc_norm", "log-probability per character"), ("acc", "log-probability")):
        low, high = found[f"{name}_interval"]
        interval = f"({100 * LEVEL:g} %: {low:.4f} to {high:.4f})"
        text.append(f"  {name:<8}  {found[name]:.4f}  {interval}  by {what}")
    text.append("  guessing  0.2500; the intervals are over items, seeds vary besides")
    if found["contexts_cut"]:
        text.append(f"  {found['contexts_cut']:,} of {4 * found['items']:,} sequences are longer than the "
                    f"model's {found['context']} tokens: cut on the left, {found['endings_cut']:,} of them "
                    "within the ending")
    if found["quick_look"]:
        text.append(f"  a quick look, not a result: the first {found['items']:,} of "
                    f"{found['items_in_file']:,} items, and the file is not shuffled")
    if found["data"]["published"] is None:
        text.append(f"  {found['data']['file']} is no published file byte for byte (sha256 "
                    f"{found['data']['sha256'][:12]}...)")
    return text
