"""records/preflight_shards.py on real shards: broken, too few, out of order, not the recorded ones."""
import os
import shutil

import numpy as np
import pytest

import train_gpt
from data.shards import write_shard
from speedrun.preflight.shards import shards
from tests.support.plans import fill, folder, found, note, only, plan_of  # noqa: F401


def test_good_shards(folder):
    findings = shards(plan_of(folder))
    assert [f.level for f in findings] == ["ok", "ok"]
    assert "5 steps read 1 of 2 training shards, which hold 10 steps" in findings[0].what
    assert "fineweb_val_000000.bin" in findings[1].what  # the validation alone is hashed
    assert "and 1 more" in shards(plan_of(folder), full=True)[1].what


def spoil(path, how):
    raw = path.read_bytes()
    path.write_bytes({"zero bytes": b"", "1000 bytes": raw[:1000], "truncated": raw[:-1],
                      "not a token shard": b"<!DOCTYPE html>" + raw[15:]}[how])


@pytest.mark.parametrize("how", ["zero bytes", "1000 bytes", "truncated", "not a token shard"])
def test_every_broken_shard_is_named_with_the_command_that_replaces_it(folder, how):
    bad = [folder / "fineweb_train_000002.bin", folder / "fineweb_val_000000.bin"]
    for path in bad:
        spoil(path, how)
    stops = found(shards(plan_of(folder)), "stop")
    assert len(stops) == 2
    for path, finding in zip(bad, stops):
        assert how in finding.what and str(path) in finding.what
        assert finding.fix == (f"run `rm {path}` and then "
                               f"`python data/cached_fineweb10B.py 1 --out {folder}`")


def test_no_shards_and_too_few(folder, tmp_path):
    stop = only(shards(plan_of(tmp_path / "absent")), "stop")
    assert "no train shards" in stop.what and "cached_fineweb10B.py" in stop.fix
    stop = only(shards(plan_of(folder, "--track.val_tokens", "16384")), "stop")
    assert "do not hold the 16386 tokens" in stop.what
    wraps = shards(plan_of(folder, "--steps", "25"))
    assert "2.5 epochs" in wraps[0].what and not found(wraps, "stop")


def test_official_tracks_need_every_step_and_every_number(laptop, tmp_path):
    copy = shutil.copytree(laptop, tmp_path / "laptop")
    official = ["--device", "cpu", "--track", "laptop", "--data-dir", str(copy)]
    long = train_gpt.parse([*official, "--recipe.schedule_steps", "5000", "--steps", "5000"])
    assert "5000 steps" in only(shards(long), "stop").what
    (copy / "laptop_train_000001.bin").rename(copy / "laptop_train_000002.bin")
    stop = only(shards(train_gpt.parse(official)), "stop")
    assert "stands where laptop_train_000001.bin is read" in stop.what and "sample.py" in stop.fix


def test_a_gap_and_a_second_data_set_in_the_folder(folder):
    (folder / "fineweb_train_000002.bin").rename(folder / "fineweb_train_000003.bin")
    note(folder, [path.name for path in folder.glob("*.bin")])
    warn = only(shards(plan_of(folder, "--steps", "10")), "warn")
    assert "fineweb_train has no number 2, though 3 would be read" in warn.what
    assert not found(shards(plan_of(folder, "--steps", "5")), "warn")  # 3 is not read
    fill(folder / "another_train_000001.bin", 12_000)
    note(folder, [path.name for path in folder.glob("*.bin")])
    warn = only(shards(plan_of(folder, "--steps", "10")), "warn")
    assert "several data sets: another, fineweb" in warn.what


def test_ids_outside_the_vocabulary_and_holes(folder):
    tokens = np.random.default_rng(0).integers(0, 50257, 200_000)
    tokens[-1] = 60_000  # behind more tokens than are sampled; the last stretch always is
    write_shard(folder / "fineweb_train_000001.bin", tokens)
    note(folder, [path.name for path in folder.glob("*.bin")])
    stop = only(shards(plan_of(folder)), "stop")
    assert "token 60000 is outside the vocabulary of 50304" in stop.what and "rm " in stop.fix
    tokens[-50_000:] = 0
    write_shard(folder / "fineweb_train_000001.bin", tokens)
    note(folder, [path.name for path in folder.glob("*.bin")])
    assert "4096 equal tokens from position 1" in only(shards(plan_of(folder)), "warn").what


def test_content_against_the_manifest(folder):
    train, val = folder / "fineweb_train_000001.bin", folder / "fineweb_val_000000.bin"
    stamp = val.stat().st_mtime_ns
    fill(val, 12_000, seed=9)  # another content of the same size and time stamp
    os.utime(val, ns=(stamp, stamp))
    assert "not the recorded one" in only(shards(plan_of(folder)), "stop").what
    note(folder, [path.name for path in folder.glob("*.bin")])

    fill(train, 12_000, seed=9)
    os.utime(train, ns=(stamp + 10**9, stamp + 10**9))
    warn = only(shards(plan_of(folder)), "warn")
    assert "other time stamps" in warn.what and "--full" in warn.fix
    assert str(train) in only(shards(plan_of(folder), full=True), "stop").what
    fill(train, 13_000)
    assert "27024 bytes, the manifest records 25024" in only(shards(plan_of(folder)), "stop").what


@pytest.mark.parametrize("text, words", [
    (None, "no sha256 is recorded for fineweb_train_000001.bin and 1 more"), ("{", "unreadable"),
    ('{"files": {"fineweb_val_000000.bin": {"size": "x"}}}', "unreadable"), ("[]", "unreadable"),
    ("[" * 100_000, "unreadable"), ('{"files": {"x": {"size": 1e999}}}', "unreadable"),
    ('{"files": {}}', "no sha256 is recorded")])
def test_manifests_that_tell_nothing(folder, capsys, text, words):
    manifest = folder / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    warn = only(shards(plan_of(folder)), "warn")
    assert words in warn.what and "cached_fineweb10B.py" in warn.fix
    assert capsys.readouterr().err == ""


def test_a_pinned_track_and_an_unfinished_download(laptop, tmp_path):
    copy = shutil.copytree(laptop, tmp_path / "laptop")
    plan = train_gpt.parse(["--device", "cpu", "--track", "laptop", "--data-dir", str(copy)])
    (copy / "laptop_train_000002.bin.1234.partial").write_bytes(b"x" * 10**5)
    assert "1 unfinished downloads (*.partial, 0.1 MB)" in only(shards(plan), "warn").what
    write_shard(copy / "laptop_train_000001.bin", np.arange(2_000_000) % 256)
    stop = only(shards(plan), "stop")
    assert "not the recorded one" in stop.what and "sample.py --out" in stop.fix
