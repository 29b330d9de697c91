"""data/hellaswag.py: what an item reads as, and the download of the items from a hub on this machine."""
import json
import os
import subprocess
import sys

import pytest

from data import hellaswag
from data.hellaswag import Item, clean
from speedrun import ROOT
from tests.support.hellaswag_rows import parquet_of, row
from tests.support.hub import Hub


@pytest.mark.parametrize("text, cleaned", [
    (" How to cook [header] Get a pan [title] Heat it. [step] Wait. ",
     "How to cook Get a pan. Heat it. Wait."),
    ("[substeps] Stir. [substeps] Serve.", " Stir. Serve."), ("a [not\nclosed] b", "a [not\nclosed] b"),
    ("x  y", "x y")])
def test_clean(text, cleaned):
    assert clean(text) == cleaned


def test_an_item_reads_as_the_harness_puts_it():
    found = hellaswag.item_of(row([" runs. ", "b", "c", "d"], "3", "A man is on a roof.", "the NASA man",
                                  "Roof work"), "x")
    assert found == Item("Roof work: A man is on a roof. The nasa man", ("runs.", "b", "c", "d"), 3)


FETCH = """
import pathlib, sys
from data import hellaswag
from speedrun.cli import command
sys.exit(command(lambda argv: hellaswag.fetch_items(pathlib.Path(argv[0])) and 0)())
"""


def fetch(folder, hub):
    """The download in a process of its own: the hub's library reads its address when it is imported."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k[:3] != "HF_"}
    env |= dict(HF_ENDPOINT=hub.url, HF_HOME=str(folder.parent / "home"))
    done = subprocess.run([sys.executable, "-c", FETCH, folder], cwd=ROOT, capture_output=True, text=True,
                          timeout=100, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.process
def test_the_hub(tmp_path):
    server, name, folder = Hub(hellaswag.REPO), hellaswag.FILE, tmp_path / "data" / "hellaswag"
    server.files[name] = parquet_of(tmp_path / "p", [row(list("abcd"), "1")] * 4)
    server.faults[name] = [("cut", 700), ("body", b"x")]
    done = fetch(folder, server)
    assert done.returncode == 0 and "trying again in 1 s" in done.stderr, done.stderr
    assert (folder / name).read_bytes() == server.files[name] and not list(folder.rglob("*.partial"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["dataset"] == "Rowan/hellaswag" and list(manifest["files"]) == [name]
    assert hellaswag.read_items(folder / name) == [Item("x: y", ("a", "b", "c", "d"), 1)] * 4

    server.files[name] = parquet_of(tmp_path / "p", [dict(text="not HellaSwag")])
    (folder / "manifest.json").unlink()
    done = fetch(folder, server)
    assert done.returncode == 1 and "the hub's own file is no good" in done.stderr
    assert "no field 'activity_label'" in done.stderr.splitlines()[-1]
    server.shutdown()
    server.server_close()
