"""Fixtures of several test files."""
import os
import sys

# Bit-equal comparisons want one thread; so do 2 cores with 4 ranks.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

from data import sample  # noqa: E402
from speedrun.text import without_folders  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def laptop(tmp_path_factory):
    """The folder of the laptop track's shards."""
    folder = tmp_path_factory.mktemp("laptop")
    assert sample.main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def undisturbed(laptop, tmp_path_factory):
    """The outcome of a run of tests/faulting.py that nothing stops."""
    from tests.support.ranks import Ranks, outcome
    folder = tmp_path_factory.mktemp("undisturbed") / "log"
    with Ranks(laptop, folder) as run:
        assert run.wait() == [0, 0], run.said()
    return outcome(folder)


@pytest.fixture(scope="session")
def stopped(laptop, tmp_path_factory):
    """The folder of such a run, killed behind its second checkpoint."""
    from tests.support.ranks import BEHIND_TWO, Ranks, kill, wait_for
    folder = tmp_path_factory.mktemp("stopped") / "log"
    with Ranks(laptop, folder) as run:
        wait_for(run, BEHIND_TWO)
        kill(run)
    return folder


MATRIX = pytest.StashKey[list]()  # rows of the fault matrix: fault, where, kept, digits equal, message


@pytest.fixture
def matrix(request):
    """matrix(fault, where, kept, message, digits): one row; a test that ends notes that digits are equal."""
    def note(fault, where, kept, message, digits=True):
        digits = "equal" if digits else "n/a"
        request.config.stash[MATRIX].append((fault, where, str(kept), digits, without_folders(message)))
    return note


TIERS = ("process", "faults", "long")
NOW: list[pytest.Item] = []        # the test that runs
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
CHEAP = {"git"}                    # may be asked in any tier


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """`-m faults` runs the whole matrix, the cases that always run too; what has no tier is `unit`."""
    for item in items:
        if config.option.markexpr == "faults" and "matrix" in item.fixturenames:
            item.add_marker("faults")
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker("unit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    NOW.append(item)
    try:
        return (yield)
    finally:
        NOW.pop()


def no_process(event, args):
    """An audit hook: a test of the unit tier that starts a process fails, and says what to do."""
    if event in STARTS and NOW and NOW[-1].get_closest_marker("unit"):
        if event == "subprocess.Popen" and os.path.basename(os.fsdecode(args[0])) in CHEAP:
            return
        raise RuntimeError(f"{NOW[-1].nodeid} starts a process: mark it, or its file, `process`")


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[MATRIX]
    if not rows or "not faults" in config.option.markexpr:
        return
    rows = [("fault", "where", "kept", "digits", "message"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    terminalreporter.section("fault matrix")
    for row in rows:
        terminalreporter.write_line("  ".join([*map(str.ljust, row, widths), row[4][:90]]))


def pytest_configure(config):
    config.stash[MATRIX] = []
    sys.addaudithook(no_process)
