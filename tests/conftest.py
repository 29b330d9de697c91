"""Fixtures of several test files."""
import os

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """`-m faults` runs the whole matrix, the cases that always run too."""
    if config.option.markexpr == "faults":
        for item in items:
            if "matrix" in item.fixturenames:
                item.add_marker("faults")


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
    config.addinivalue_line("markers", "faults: one more case of the fault matrix; runs with `-m faults`")
    config.addinivalue_line("markers", "long: one more case of a costly test; runs with `-m long`")
    if not config.option.markexpr:
        config.option.markexpr = "not faults and not long"
