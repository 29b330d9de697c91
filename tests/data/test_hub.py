"""data/cached_fineweb10B.py and data/hub.py against a hub on this machine."""
import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from data import cached_fineweb10B
from data.shards import write_shard
from tests.support.data_tools import DATA, refused, run
from tests.support.hub import TRAIN1, TRAIN2, VAL, Hub, fetch, holds, hub  # noqa: F401

pytestmark = pytest.mark.process


def test_download_then_offline(hub, tmp_path):
    out = tmp_path / "fw"
    hub.faults = {TRAIN1: [503], TRAIN2: [("body", b"")]}  # both pass after one wait
    done = fetch(hub, out, 2, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{TRAIN1}: the hub answers HTTP 503; trying again in 1 s" in done.stderr
    assert f"{TRAIN2}: the download ended early or had a wrong length; trying again in 1 s" in done.stderr
    assert json.loads(done.stdout)["fetched"] == [VAL, TRAIN1, TRAIN2]
    assert holds(out, hub, VAL, TRAIN1, TRAIN2)
    manifest = json.loads((out / "manifest.json").read_text())["files"]
    assert manifest[TRAIN2] == dict(size=11024, sha256=hashlib.sha256(hub.files[TRAIN2]).hexdigest(),
                                    mtime_ns=(out / TRAIN2).stat().st_mtime_ns, commit=hub.commit)
    assert not list(out.glob("*.partial"))

    os.utime(out / VAL)  # as in a copied folder: the content decides
    done = run("cached_fineweb10B.py", 2, "--out", out, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0 and "3 already there" in done.stdout and done.stderr == ""


def test_wrong_and_unknown_files_are_mended_and_good_ones_are_not_fetched(hub, tmp_path):
    out = tmp_path / "fw"
    out.mkdir()
    (out / VAL).write_bytes(hub.files[VAL])  # from elsewhere, good
    (out / TRAIN1).write_bytes(b"")
    (out / "manifest.json").write_text("{")
    done = fetch(hub, out)
    assert done.returncode == 0 and holds(out, hub, VAL, TRAIN1)
    assert "manifest.json: unreadable" in done.stderr and f"{TRAIN1}: present but not what" in done.stderr
    assert hub.ranges(VAL) == [] and hub.ranges(TRAIN1) == [None]


def test_a_cut_connection_and_a_killed_run_are_resumed(hub, tmp_path):
    out, megabytes = tmp_path / "fw", 10 * 2**20  # the library keeps what arrives in pieces of this size
    write_shard(tmp_path / "big.bin", np.arange(6_000_000) % 50257)
    hub.files[VAL] = (tmp_path / "big.bin").read_bytes()
    hub.faults[VAL] = [("stall", megabytes + 5000)]
    environment = os.environ | dict(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"))
    with subprocess.Popen([sys.executable, DATA / "cached_fineweb10B.py", "1", "--out", out],
                          env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not any(p.stat().st_size for p in out.glob("*.partial")) and time.monotonic() < deadline:
            time.sleep(0.05)
        busy = fetch(hub, out)
        process.kill()
    assert busy.returncode == 1 and "another download into this folder runs" in busy.stderr
    assert not (out / VAL).exists()
    hub.faults[TRAIN1] = [("cut", 3000)]
    done = fetch(hub, out)
    assert done.returncode == 0, done.stderr
    assert holds(out, hub, VAL, TRAIN1) and not list(out.glob("*.partial"))
    assert hub.ranges(VAL) == [None, f"bytes={megabytes}-"] and len(hub.ranges(TRAIN1)) == 2


def test_wrong_content_is_refused_and_what_was_there_stays(hub, tmp_path):
    out = tmp_path / "fw"
    out.mkdir()
    (out / TRAIN2).write_bytes(b"kept until something better is there")
    hub.sha256[TRAIN2] = "a" * 64
    done = fetch(hub, out, 2)
    assert done.returncode == 1
    assert f"{TRAIN2}: the content that arrives has not the sha256" in done.stderr.splitlines()[-1]
    assert len(hub.ranges(TRAIN2)) == 2 and holds(out, hub, VAL, TRAIN1)
    assert [p.read_bytes() for p in out.glob(f"{TRAIN2}*")] == [b"kept until something better is there"]


@pytest.mark.parametrize("content, words", [(b"", "zero bytes"), (None, "HTTP 404")])
def test_what_is_no_shard_on_the_hub_itself_is_one_line(hub, tmp_path, content, words):
    if content is None:
        del hub.files[TRAIN1]
    else:
        hub.files[TRAIN1] = content
    done = fetch(hub, tmp_path / "fw")
    assert done.returncode == 1
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [VAL, "cached_fineweb10B.py"]
    assert words in done.stderr and holds(tmp_path / "fw", hub, VAL)
    assert not list((tmp_path / "fw").glob(f"{TRAIN1}*"))


@pytest.mark.parametrize("n", ["0", "104", "-1", "x", "1.5", ""])
def test_bad_number_of_shards(capsys, n):
    assert "1 to 103" in refused(capsys, cached_fineweb10B.main, "--", n, code=2)


def test_a_listing_that_fails_is_tried_again_by_the_library_alone(tmp_path):
    """With our own attempts on top of it, no network took two minutes to be told. No wait is real here."""
    server = Hub("someone/texts")
    server.faults["/api/datasets/someone/texts/tree/main"] = 503
    code = ("import sys, time; time.sleep = lambda seconds: None; from data import tokenize_text; "
            "sys.exit(tokenize_text.main(sys.argv[1:]))")
    words = ["hf://datasets/someone/texts", "--out", tmp_path / "out", "--tokenizer", "bytes"]
    environment = os.environ | dict(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "home"))
    done = subprocess.run([sys.executable, "-c", code, *words], text=True, capture_output=True,
                          cwd=DATA.parent, env=environment)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "HTTP 503" in done.stderr
    assert 2 <= len(server.log) <= 8
    server.shutdown()
    server.server_close()
