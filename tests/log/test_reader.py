"""The reader on logs of modded-nanogpt, in each form that they have, and on what strangers may write."""
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speedrun.cli import Refusal
from speedrun.log.format import MAX_EVENTS
from speedrun.log.reader import read_log
from speedrun.log.writer import LogWriter
from speedrun.text import plain_json, printable

RULE = "=" * 100
CODE = '''import sys
# step:1/9 val_loss:9.99999 train_time:1s
print0(f"step:{step}/{train_steps} val_loss:{val_loss:.5f}")
'''
DEVICE = ("Running PyTorch 2.11.0+cu130 compiled for CUDA 13.0\n"
          "Running on device_name=NVIDIA H100 with world_size=8")
LINE = "step:{s}/3250 val_loss:{v:.5f} train_time:{t:.3f}s step_avg:{a:.2f}ms"
SMI = """|   {}  NVIDIA H100 80GB HBM3          On  |   00000000:8D:00.0 Off |                    0 |
| N/A   53C    P0            145W /  700W |    1521MiB /  81559MiB |      0%      Default |"""


def track3(trials, head=DEVICE, line=LINE):
    """A log of their track 3: trials are lists of (step, loss)."""
    lines = [CODE.rstrip("\n"), "step:7/9 val_loss:7.0", RULE, head, RULE]
    for trial in trials:
        lines += [line.format(s=s, v=v, t=0.15 * s, a=150 if s else math.nan) for s, v in trial]
    return "\n".join(lines) + "\n"


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "log.txt"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_log(path)
    return read


def test_trials_of_track_3(read):
    trials = [[(0, 10.82584), (125, 4.64419)], [(0, 10.82584), (125, 4.65)], [(125, 4.7), (250, 4.1)]]
    log = read(track3(trials))
    assert log.problems == [] and log.header == {} and log.status == "unknown"
    found = {i: [(p.step, p.val_loss) for p in points] for i, points in log.series.items()}
    assert found == dict(enumerate(trials))
    point = log.series[0][1]
    assert (point.steps, point.train_time, point.step_avg, point.more) == (3250, 18.75, 150, {})
    assert math.isnan(log.series[0][0].step_avg) and point.line == 10
    assert log.sources["train_gpt.py"] == CODE + "step:7/9 val_loss:7.0\n"
    assert log.foreign["gpu"] == "NVIDIA H100" and log.foreign["world_size"] == 8
    assert log.foreign["torch"] == "2.11.0+cu130" and len(log.foreign["code"]) == 64


@pytest.mark.parametrize("head, gpu, size, seeds", [
    (DEVICE + "\nUsing seed=9\nUsing mu=0.95", "NVIDIA H100", 8, {0: 9}),
    ("Running PyTorch 2.11.0+cu128 compiled for CUDA 12.8 on NVIDIA H800           with world_size 4",
     "NVIDIA H800", 4, {0: None}),
    ("Running PyTorch 2.10.0+cu128 compiled for CUDA 12.8", None, None, {0: None}),
    ("trial:1/2 seed:5", None, None, {0: 5})])
def test_what_a_log_says_of_itself(read, head, gpu, size, seeds):
    found = read(track3([[(0, 10.8), (125, 4.6)]], head)).foreign
    assert (found["gpu"], found["world_size"], found["seeds"]) == (gpu, size, seeds)


def test_seeds_by_trial(read):
    lines = track3([[(0, 10.8), (9, 4.6)], [(0, 10.8), (9, 4.5)]]).splitlines()
    lines.insert(-4, "trial:1/2 seed:11")
    lines.insert(-2, "trial:2/2 seed:12")
    assert read("\n".join(lines) + "\n").foreign["seeds"] == {0: 11, 1: 12}


def test_track_1(read):
    smi = [SMI.format(i) for i in range(8)]
    text = "\n".join([CODE, RULE, "Running PyTorch 2.7.0 compiled for CUDA 12.6", *smi, RULE,
                      "step:0/1390 val_loss:10.8258 train_time:0ms step_avg:nanms",
                      "step:1/1390 train_time:158ms step_avg:158.07ms",
                      "step:250/1390 val_loss:4.4888 train_time:7930ms step_avg:31.72ms",
                      "peak memory allocated: 30220 MiB reserved: 38672 MiB"])
    log = read(text)
    first, last = log.series[0]
    assert (last.step, last.val_loss, last.train_time) == (250, 4.4888, 7.93) and first.train_time == 0
    assert last.step_avg == pytest.approx(31.72)
    assert (log.foreign["gpu"], log.foreign["world_size"]) == ("NVIDIA H100 80GB HBM3", 8)


def test_a_readout_under_another_name(read):
    tail = " train_time:{t:.3f}s step_avg:{a:.2f}ms"
    log = read(track3([[(2690, 3.28)]], line="step:{s}/2900 val_ema_loss:{v:.5f}" + tail))
    assert log.series[0][0].val_loss == 3.28 and log.series[0][0].more == {"readout": "val_ema_loss"}
    line = "step:{s}/2900 val_loss:{v:.5f} val_ema_loss:3.27000" + tail + " ema_beta:0.3"
    point = read(track3([[(2690, 3.28)]], line=line)).series[0][0]
    assert point.val_loss == 3.28 and point.more == {"val_ema_loss": "3.27000", "ema_beta": "0.3"}
    assert point.train_time == pytest.approx(403.5)


def test_what_was_printed_without_the_code(read):
    log = read("hello\nstep:125/3040 val_loss:4.5 train_time:75.180s step_avg:601.44ms\r\n")
    assert log.series[0][0].train_time == 75.18 and log.foreign["code"] is None and log.sources == {}
    log = read("step:125/3040 val_loss:4.5 train_time:75.180s step_avg:601.44ms\n" + RULE + "\nbye\n")
    assert len(log.series[0]) == 1 and log.foreign["code"] is None


def test_losses_that_are_no_number(read):
    log = read(track3([[(0, 10.8), (125, math.nan), (250, math.inf)]]))
    assert math.isnan(log.series[0][1].val_loss) and log.series[0][2].val_loss == math.inf
    assert read("step:1/2 val_loss:1.2.3 train_time:1s\n").problems


@pytest.mark.parametrize("text", ["", "\n", "hello\n", CODE, RULE, "\0" * 99, "step:١٢/١٣ val_loss:1.0\n",
                                  "step:9/10 train_time:1.000s step_avg:9ms\n"])
def test_what_is_no_log(read, text):
    log = read(text)
    assert len(log.problems) == 1 and "not a record log" in log.problems[0][1] and not log.series


def test_more_validations_than_a_log_can_have(read):
    log = read("".join(f"step:{i}/9 val_loss:1.0\n" for i in range(MAX_EVENTS + 9)))
    assert "the rest is not read" in log.problems[0][1]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300), lines=st.lists(st.sampled_from([
    RULE, DEVICE, "step:0/1 val_loss:1.0", "step:", "step:1/1 val_loss:", "step:999999999/1 val_a_loss:nan",
    "step:1/1 val_loss:1 val_loss:2 train_time:xs", "Using seed=", "trial:1/1 seed:1", "|   0  A  On |",
    "@ log", "@ run {"])))
def test_no_text_crashes_it(tmp_path_factory, text, lines):
    path = tmp_path_factory.mktemp("any") / "log.txt"
    path.write_bytes("\n".join([*lines, text]).encode("utf-8", "surrogatepass"))
    try:
        log = read_log(path)
    except Refusal as refusal:
        assert "UTF-8" in str(refusal)
    else:
        assert log.problems or (log.foreign and log.series)


def test_what_else_a_line_of_ours_says(tmp_path):
    log = LogWriter(tmp_path / "log.txt")
    log.event("run", seeds=[0])
    log.validation(10, 20, 3.5, 1.5, 0, train_loss=3.25)
    log.end("complete")
    point = read_log(tmp_path / "log.txt").series[0][0]
    assert (point.steps, point.step_avg, point.more) == (20, 150.0, {"train_loss": "3.25"})


def test_what_is_printed_of_a_log_stays_text():
    assert printable("a\x1b[2J\n\u202eb\0é\ud800") == "a\\x1b[2J\\n\\u202eb\\x00é\\ud800"
    assert printable("x" * 99, 9) == "x" * 9 + "..."


@pytest.mark.parametrize("text", [
    "[1]", "1", "{", '{"a": 1, "a": 1}', '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}',
    '{"a": ' + "9" * 19 + "}", '{"a": ' + "[" * 10**5, '{"a": ' + "9" * 10**4 + "}"],
    ids=lambda text: text[:20])
def test_json_that_is_not_plain(text):
    with pytest.raises(ValueError):
        plain_json(text)
