"""Signals end a run at a step, with its log closed."""
import os
import signal

import pytest

from speedrun.training.world import StopSignal
from tests.support.trainer import start, the_log, wait_for

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number, code", [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)])
def test_a_signal_closes_the_log(laptop, tmp_path, number, code):
    process = start(laptop, tmp_path / "log", "--val-every", "2")
    wait_for(process, tmp_path / "log", "(?m)^step:2/")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.splitlines()) == 1 and "stopped by a signal" in err
    log = the_log(tmp_path / "log")
    assert log.status == "interrupted" and log.problems == []


def test_a_signal_stops_all_ranks_at_the_same_step(laptop, tmp_path):
    process = start(laptop, tmp_path, "--val-every", "5", ranks=2, start_new_session=True)
    wait_for(process, tmp_path, "(?m)^step:5/")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does: launcher and workers
    process.communicate(timeout=20)  # torchrun would wait 30 s for a rank that stays
    assert process.returncode != 0
    log = the_log(tmp_path)
    assert log.status == "interrupted" and log.problems == []


@pytest.mark.parametrize("ignored", [False, True])
def test_a_lost_terminal_stops_a_run_unless_nohup_says_not(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == (0 if ignored else signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
