"""Fixtures of several test files."""
import os

# Bit-equal comparisons want one thread; so do 2 cores with 4 ranks.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

from data import sample  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def laptop(tmp_path_factory):
    """The folder of the laptop track's shards."""
    folder = tmp_path_factory.mktemp("laptop")
    assert sample.main(["--out", str(folder)]) == 0
    return folder


def pytest_configure(config):
    config.addinivalue_line("markers", "faults: one more case of the fault matrix; runs with `-m faults`")
    if not config.option.markexpr:
        config.option.markexpr = "not faults"
