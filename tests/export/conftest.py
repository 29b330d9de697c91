"""The upstream script that the tests of scripts/export.py export to."""
import pytest

from tests.support.stand_in import UPSTREAM


@pytest.fixture
def upstream(tmp_path):
    path = tmp_path / "upstream.py"
    path.write_text(UPSTREAM)
    return path
