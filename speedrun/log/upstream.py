"""Logs of modded-nanogpt (github.com/KellerJordan/modded-nanogpt), tracks 1 and 3, read as far as they go.

    <the code that ran, or nothing>
    ====================================================================================================
    Running PyTorch 2.11.0+cu130 compiled for CUDA 13.0
    Running on device_name=NVIDIA H100 80GB HBM3 with world_size=8          or a table of nvidia-smi
    ====================================================================================================
    step:<step>/<steps> val_loss:<nats> train_time:<s>s step_avg:<ms>ms     or <ms>ms, four or five decimals

A line without a loss is a training step. The first loss of a line is its readout, under whatever name; what
else it says is kept beside it. One file may hold several trials: a new one starts where the step falls.
"""
import hashlib
import math
import re
from itertools import islice
from pathlib import Path

from .format import MAX_EVENTS, Log, Point

SEPARATOR = re.compile(r"^={50,}\r?$", re.MULTILINE)
LINE = re.compile(r"^step:([0-9]{1,9})/([0-9]{1,9}) (.{0,500})$", re.MULTILINE)
LOSS = re.compile(r"val\w*_loss", re.ASCII)
NUMBER = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?|nan|inf)(ms|s)?")
DEVICE = re.compile(r"\bon (?:device_name=)?([^\n]{1,80}?) with world_size[= ]([0-9]{1,4})\b")
SMI_ROW = re.compile(r"^\| {1,4}[0-9]{1,3}  (\S[^|\n]{0,60}?) +(?:On|Off|N/A) +\|", re.MULTILINE)
TORCH = re.compile(r"^Running PyTorch (\S{1,60})", re.MULTILINE)
SEED = re.compile(r"^(?:Using seed=|trial:[0-9]{1,4}/[0-9]{1,4} seed:)([0-9]{1,18})\r?$", re.MULTILINE)


def _number(text: str) -> float:
    """The value of "3.27884", "66.065s" or "7930ms", seconds where it is a time; nan for other text."""
    match = NUMBER.fullmatch(text)
    return float(match[1]) / (1000 if match[2] == "ms" else 1) if match else math.nan


def _points(text: str, start: int):
    """(offset, Point) of each validation line after `start`."""
    counted, line = 0, 1
    for match in LINE.finditer(text, start):
        pairs = dict(pair.split(":", 1) for pair in match[3].split() if ":" in pair)
        key = next((key for key in pairs if LOSS.fullmatch(key)), None)
        if key is None or NUMBER.fullmatch(pairs[key]) is None:
            continue
        line += text.count("\n", counted, match.start())
        counted = match.start()
        loss, seconds = _number(pairs.pop(key)), _number(pairs.pop("train_time", ""))
        step_avg = 1000 * _number(pairs.pop("step_avg", ""))
        more = {**({"readout": key} if key != "val_loss" else {}), **pairs}
        yield match.start(), Point(int(match[1]), loss, seconds, line, int(match[2]), step_avg, more)


def parse(text: str, path: Path) -> Log:
    """The trials of a log of modded-nanogpt, numbered from 0.

    `foreign` holds `code` (sha256 of what stands before the first separator, None without one), `gpu`,
    `world_size`, `torch`, and `seeds` by trial, each None where it is not said. `problems` holds one entry
    where there is no validation at all.
    """
    log = Log(Path(path), status="unknown", foreign={})
    separator = SEPARATOR.search(text)
    start = separator.end() if separator else 0
    points = list(islice(_points(text, start), MAX_EVENTS + 1))
    if not points and separator:
        start, points = 0, list(islice(_points(text, 0), MAX_EVENTS + 1))
    if not points:
        log.problems.append((1, "this is not a record log: no header of this project and no validation of "
                                "modded-nanogpt"))
    if len(points) > MAX_EVENTS:
        what = f"more than {MAX_EVENTS} validations; the rest is not read"
        log.problems.append((points[-1][1].line, what))
    seeds, trial, before = {}, -1, math.inf
    heads = [(match.start(), int(match[1])) for match in SEED.finditer(text, start)]
    for offset, point in points:
        if point.step <= before:
            trial += 1
            seeds[trial] = max((head for head in heads if head[0] < offset), default=(0, None))[1]
            log.series[trial] = []
        log.series[trial].append(point)
        before = point.step
    preamble = text[start:points[0][0]][:100_000] if points else ""
    device, rows, torch = DEVICE.search(preamble), SMI_ROW.findall(preamble), TORCH.search(preamble)
    code = text[:separator.start()] if separator and start else None
    log.foreign = dict(code=hashlib.sha256(code.encode()).hexdigest() if code else None,
                       gpu=device[1].strip() if device else rows[0] if rows else None,
                       world_size=int(device[2]) if device else len(rows) or None,
                       torch=torch[1] if torch else None, seeds=seeds)
    if code:
        log.sources["train_gpt.py"] = code
    return log
