"""A track: its validation grid, and that it never changes: a new grid is a new track."""
import hashlib
import json
from dataclasses import asdict

import pytest

from optimizers import resolve
from speedrun import ROOT
from speedrun.log.reader import read_log
from tracks import TRACKS

LAW = ("a track never changes, since records are compared under it: leave tracks.py as it was and add a new "
       "track (CONTRIBUTING.md, Add a track)")
HASHES = {   # of every field but the pins below; a new track gets a new line, no line ever changes
    "fineweb-124m": "74aed32d19f5d397",
    "sprint": "bffbad070e90f366",
    "laptop": "4c017c8dd966782b",
}
PINS = {"fineweb-124m": {}, "sprint": {}, "laptop": {   # shards of a track may be added here, none may change
    "laptop_train_000001.bin": "aabc889d49905f60088863fd913f84d1eb2ec9149b4aef335e5f60406d7af4ff",
    "laptop_val_000000.bin": "a468bbff9de7516856e9bd07314f10f024928212b894258791071e8a4767e692"}}


def digest(track) -> str:
    """sha256 of the fields that a run of this track is held to, by name, but for the shards' own hashes."""
    fields = {name: value for name, value in asdict(track).items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", HASHES)
def test_a_track_never_changes(name):
    assert name in TRACKS and digest(TRACKS[name]) == HASHES[name], f"{name}: {LAW}"
    changed = {shard for shard, content in PINS[name].items() if TRACKS[name].sha256.get(shard) != content}
    assert not changed, f"{name}, {', '.join(sorted(changed))}: {LAW}"


def test_every_track_is_in_the_table():
    assert set(TRACKS) == set(HASHES), f"give the new track a line in HASHES: {LAW}"


def test_the_records_ran_the_tracks_as_they_are():
    logs = [(name, path) for name in TRACKS for path in (ROOT / "records" / name).glob("*/*.txt.*")]
    assert len(logs) >= 5
    for name, path in logs:
        ran, now = read_log(path).header["track"], json.loads(json.dumps(asdict(TRACKS[name])))
        assert {field: now.get(field) for field in ran} == ran, f"{path.parent.name}: {LAW}"


def test_validation_grid():
    track, recipe = TRACKS["fineweb-124m"], resolve("muon", "fineweb-124m")
    steps = [s for s in range(recipe.steps + 1) if track.validates(s, recipe.steps, recipe.schedule_steps)]
    assert steps[:3] == [0, 125, 250] and steps[-3:] == [3200, 3225, 3250]
    assert 2925 in steps and 2950 in steps and 2900 not in steps
