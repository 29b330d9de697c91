"""data/shards.py: the format, every way a shard can be bad, and the order of the token stream."""
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.shards import (
    HEADER_BYTES,
    MAGIC,
    TokenStream,
    batches_in,
    fetch_words,
    find_shards,
    inspect,
    open_shard,
    out_of_order,
    token_count,
    write_shard,
)
from speedrun.cli import Refusal
from tracks import TRACKS


def shard(path, num_tokens, seed=0, vocab_size=50257):
    write_shard(path, np.random.default_rng(seed).integers(0, vocab_size, num_tokens))
    return path


# ---------------------------------------------------------------- format


def test_bytes_on_disk_are_the_field_format(tmp_path):
    path = tmp_path / "x_train_000001.bin"
    write_shard(path, np.array([1, 258, 50256]))
    raw = path.read_bytes()
    assert len(raw) == HEADER_BYTES + 6
    assert np.frombuffer(raw[:HEADER_BYTES], "<i4").tolist() == [20240520, 1, 3] + [0] * 253
    assert raw[HEADER_BYTES:] == bytes([1, 0, 2, 1, 0x50, 0xC4])
    assert token_count(path) == 3 and open_shard(path).tolist() == [1, 258, 50256]


@settings(max_examples=30, deadline=None)
@given(tokens=st.lists(st.integers(0, 65535), max_size=50))
def test_round_trip(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("round") / "x_val_000000.bin"
    write_shard(path, np.array(tokens, dtype=np.int64))
    assert open_shard(path).tolist() == tokens
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing left beside it


@pytest.mark.parametrize("tokens", [[-1], [0, 65536]])
def test_ids_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, tokens):
    with pytest.raises(ValueError, match="0..65535"):
        write_shard(tmp_path / "x_val_000000.bin", np.array(tokens))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_shard_and_leaves_nothing(tmp_path):
    folder = tmp_path / "x_val_000000.bin"
    folder.mkdir()  # a folder where the shard should go: the rename fails
    with pytest.raises(OSError):
        write_shard(folder, np.arange(3))
    assert list(tmp_path.iterdir()) == [folder]


def test_map_is_read_only(tmp_path):
    tokens = open_shard(shard(tmp_path / "x_train_000001.bin", 5))
    with pytest.raises(ValueError):
        tokens[0] = 1


def spoil(path, how):
    raw = path.read_bytes()
    header = np.frombuffer(raw[:HEADER_BYTES], "<i4").copy()
    if how == "missing":
        path.unlink()
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "short header":
        path.write_bytes(raw[:1000])
    elif how == "truncated":
        path.write_bytes(raw[:-1])
    elif how == "longer":
        path.write_bytes(raw + b"\0")
    elif how == "big-endian":
        path.write_bytes(header.astype(">i4").tobytes() + raw[HEADER_BYTES:])
    else:
        index, value = {"magic": (0, MAGIC + 1), "version": (1, 2), "negative": (2, -1)}[how]
        header[index] = value
        path.write_bytes(header.tobytes() + raw[HEADER_BYTES:])


@pytest.mark.parametrize("how, words", [
    ("missing", "cannot read"), ("zero bytes", "zero bytes"), ("short header", "1000 bytes is shorter"),
    ("truncated", "truncated: the header promises 100 tokens"), ("longer", "longer than its header says"),
    ("magic", "not a token shard"), ("version", "shard version 2"), ("big-endian", "big-endian"),
    ("negative", "longer than its header says")])
def test_every_bad_shard_is_refused_by_name_in_one_line(tmp_path, how, words):
    path = shard(tmp_path / "x_train_000001.bin", 100)
    spoil(path, how)
    for use in (token_count, open_shard, lambda p: TokenStream([p], 8, 8), lambda p: inspect([p], 50257)):
        with pytest.raises(Refusal) as refusal:
            use(path)
        assert words in str(refusal.value) and str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value) and refusal.value.code == 1


def test_inspect_names_the_token_outside_the_vocabulary_and_hashes_the_file(tmp_path):
    good = shard(tmp_path / "x_val_000000.bin", 100, vocab_size=256)
    bad = tmp_path / "x_train_000001.bin"
    write_shard(bad, np.array([0, 255, 256, 999]))
    assert inspect([good], 256) == [
        dict(name=good.name, tokens=100, sha256=hashlib.sha256(good.read_bytes()).hexdigest())]
    with pytest.raises(Refusal, match="token 256 at position 2 is outside the vocabulary of 256"):
        inspect([good, bad], 256)


def test_find_shards_takes_one_split_in_name_order(tmp_path):
    names = ["a_val_set_train_000002.bin", "a_val_set_train_000001.bin", "a_val_set_val_000000.bin",
             "a_val_set_train_000003.bin.1.partial", "manifest.json", "notes_train_of_thought.bin"]
    for name in names:
        (tmp_path / name).touch()
    assert [p.name for p in find_shards(tmp_path, "train")] == sorted(names[:2])
    assert [p.name for p in find_shards(tmp_path, "val")] == ["a_val_set_val_000000.bin"]
    assert find_shards(tmp_path / "absent", "train") == []


# ---------------------------------------------------------------- stream


def reference_batches(shards, batch_tokens):
    """The track's rule, written out: (inputs, targets) of every global batch, flat."""
    for tokens in shards:
        pos = 0
        while not pos + batch_tokens + 1 >= len(tokens):
            yield tokens[pos:pos + batch_tokens], tokens[pos + 1:pos + batch_tokens + 1]
            pos += batch_tokens


@pytest.mark.parametrize("steps, shards", [(1, 1), (190, 1), (191, 2), (3250, 18), (30_000, 103)])
def test_the_command_that_fetches_names_shards_that_there_are(steps, shards):
    assert fetch_words(TRACKS["fineweb-124m"], steps) == f"data/cached_fineweb10B.py {shards}"


def test_a_full_shard_holds_190_batches():
    assert batches_in(100_000_000, 524_288) == 190


@given(num_tokens=st.integers(0, 400), batch_tokens=st.integers(1, 50))
def test_batches_in_counts_what_the_rule_yields(num_tokens, batch_tokens):
    tokens = np.zeros(num_tokens)
    assert batches_in(num_tokens, batch_tokens) == len(list(reference_batches([tokens], batch_tokens)))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=4),
       batch_sequences=st.sampled_from([1, 2, 4, 8]), context=st.integers(1, 6), data=st.data())
def test_stream_order_and_partition(tmp_path_factory, sizes, batch_sequences, context, data):
    folder = tmp_path_factory.mktemp("stream")
    paths = [shard(folder / f"x_train_{i:06d}.bin", n, seed=i) for i, n in enumerate(sizes)]
    batch_tokens = batch_sequences * context
    expected = list(reference_batches([open_shard(p) for p in paths], batch_tokens))
    world_sizes = [w for w in (1, 2, 4, 8) if batch_sequences % w == 0]
    streams = {w: [TokenStream(paths, batch_tokens, context, r, w) for r in range(w)] for w in world_sizes}
    assert all(len(s) == len(expected) for ranks in streams.values() for s in ranks)
    for step in data.draw(st.permutations(range(len(expected)))):  # addressed by step, in any order
        for world_size, ranks in streams.items():
            parts = [stream[step] for stream in ranks]
            assert all(x.shape == y.shape == (batch_sequences // world_size, context) for x, y in parts)
            for whole, slices in zip(expected[step], zip(*parts)):
                assert np.array_equal(np.concatenate(slices).reshape(-1), whole)


def test_shards_for_names_what_a_run_reads(tmp_path):
    paths = [shard(tmp_path / f"x_train_{i:06d}.bin", n) for i, n in enumerate([42, 9, 42])]
    stream = TokenStream(paths, 8, 4)  # 5, 0 and 5 batches
    assert len(stream) == 10
    assert [len(stream.shards_for(n)) for n in (1, 5, 6, 10, 99)] == [1, 1, 3, 3, 3]


def test_end_of_data_and_wrap(tmp_path):
    paths = [shard(tmp_path / f"x_train_{i:06d}.bin", 42, seed=i) for i in range(2)]
    with pytest.raises(Refusal, match="step 10 needs batch 11, the shards hold 10; get more shards"):
        TokenStream(paths, 8, 4)[10]
    wrapped = TokenStream(paths, 8, 4, wrap=True)
    for step in (10, 17, 23):
        assert np.array_equal(wrapped[step][0], wrapped[step % 10][0])
    with pytest.raises(Refusal, match="hold 0"):
        TokenStream([shard(tmp_path / "x_train_000009.bin", 3)], 8, 4, wrap=True)[0]


@pytest.mark.parametrize("size, words", [(1044, "changed its size to 1044 bytes"), (None, "is gone")])
def test_a_shard_that_shrinks_during_the_run_stops_it(tmp_path, size, words):
    path = shard(tmp_path / "x_train_000001.bin", 100_000)
    stream = TokenStream([path], 8, 4)
    stream[0]
    if size is None:
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(size)
    with pytest.raises(Refusal, match=words) as refusal:
        stream[11_000]
    assert not refusal.value.everywhere  # one rank may see it alone, so it speaks whatever its rank


@pytest.mark.parametrize("split, names, wrong", [
    ("train", ["a_train_000001.bin", "a_train_000002.bin"], None),
    ("val", ["a_val_000000.bin"], None),
    ("train", ["a_train_000001.bin", "a_train_000003.bin"], "a_train_000003.bin stands where a_train_000002"),
    ("train", ["a_train_000001.bin", "b_train_000002.bin"], "b_train_000002.bin stands where a_train_000002"),
    ("train", ["a_train_000000.bin"], "a_train_000000.bin stands where a_train_000001"),
    ("val", ["a_val_000001.bin"], "a_val_000001.bin stands where a_val_000000")])
def test_an_official_track_reads_its_shards_in_order(split, names, wrong):
    found = out_of_order(names, split)
    assert found is None if wrong is None else found.startswith(wrong)
