"""Logs of two recipes, for what compares and shows recipes."""
import pytest

from tests.support.made_logs import make_log

MUON, AURORA = {0: 1.35, 1: 1.352, 2: 1.36}, {0: 1.25, 1: 1.242, 2: 1.24}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with logs of muon and aurora, three seeds each."""
    folder = tmp_path_factory.mktemp("logs")
    make_log(folder / "muon.txt", "--recipe muon --seeds 0 1 2", MUON)
    make_log(folder / "aurora.txt", "--recipe aurora --seeds 0 1 2", AURORA, hour=1)
    return folder
