"""HellaSwag: a case by hand, scores against the model's own loss, the data, and what is refused."""
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_gpt
from data import hellaswag, hub
from data.hellaswag import Item
from data.shards import sha256_of
from scripts import eval_hellaswag
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.evaluate import hellaswag as evaluate_hellaswag
from speedrun.evaluate.hellaswag import encoder, score_all, sequences
from tests.data.test_tokenize import bpe  # noqa: F401 (a fixture)
from tests.support.hellaswag_rows import parquet_of, row
from tracks import ModelConfig
from train_gpt import GPT

BYTES = encoder(256)


# In the model of `echo` a byte is that before it with probability 1/2, and any other one with 1/510.
SHORT, ACCENTS = ["q", "aaaaaaaa", "abab", "aabb"], ["éé", "ab", "c", "d"]
SAME, OTHER = -math.log(2), -math.log(510)
BY_HAND = [2 * OTHER, 2 * OTHER + 7 * SAME, 5 * OTHER, 3 * OTHER + 2 * SAME,  # the space before is one byte
           5 * OTHER, 3 * OTHER, 2 * OTHER, 2 * OTHER]
# acc takes "q" and "c"; acc_norm takes "aaaaaaaa" and, by characters (by bytes it would be "éé"), "ab".
ROWS = [row(SHORT, 1), row(SHORT, 0), row(SHORT, 1), row(ACCENTS, 1)]


@pytest.fixture
def echo():
    """One layer that passes on what it gets: one-hot embeddings of norm 16, and a head that reads them."""
    model = GPT(ModelConfig(256, 1, 256, head_dim=32, mlp_ratio=1, dtype="float32"))
    train_gpt.initialise(model, 0)  # both `proj` are zero
    logit = math.log(255)
    before_softcap = 15 * logit / math.sqrt(225 - logit**2)
    with torch.no_grad():
        model.embed.weight.copy_(torch.eye(256))
        model.proj.weight.copy_(torch.eye(256) * before_softcap / 16)
    return model


@pytest.fixture
def saved(echo, tmp_path, monkeypatch):
    """saved(): the path of its weights, for a track `echo` of 32 bytes."""
    track = replace(train_gpt.TRACKS["laptop"], name="echo", model=echo.config, context=32)
    monkeypatch.setitem(train_gpt.TRACKS, "echo", track)
    torch.save(echo.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def answer(capsys, *args):
    assert eval_hellaswag.main([*args, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *args, code=1):
    """The one line with which the command refuses."""
    assert eval_hellaswag.main([*args, "--device", "cpu"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 600, err
    return err


########################################
#               Scores                 #
########################################


def wilson(right, count, z=1.959963984540054):
    middle, half = right + z**2 / 2, z * math.sqrt(right * (count - right) / count + z**2 / 4)
    return pytest.approx([(middle - half) / (count + z**2), (middle + half) / (count + z**2)], rel=1e-9)


def test_by_hand(echo, saved, tmp_path, capsys):
    items = [hellaswag.item_of(r, "x") for r in ROWS]
    found, cut = sequences([items[0], items[3]], BYTES, 32)
    assert score_all(echo, found, 64).tolist() == pytest.approx(BY_HAND, rel=1e-5)
    assert cut == dict(contexts_cut=0, endings_cut=0)
    result = answer(capsys, saved, "--track", "echo", "--data", write(tmp_path / "a.jsonl", ROWS))
    assert (result["acc"], result["acc_norm"], result["items"]) == (1 / 4, 3 / 4, 4)
    assert result["acc_interval"] == wilson(1, 4) and result["acc_norm_interval"] == wilson(3, 4)
    assert result["normalised_by"] == "characters" and not result["quick_look"]


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_batched_equals_one_by_one_and_the_models_own_loss(mlp):
    model = GPT(ModelConfig(256, 2, 32, head_dim=16, mlp=mlp, mlp_ratio=4, dtype="float32"))
    train_gpt.initialise(model, 3)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2 and not p.any():  # the head and each block's last matrix start at zero
                p.normal_(0, 0.2)
    words = "one of the men throws a very long and heavy ball over all of the houses there".split()
    items = [Item(" ".join(words[:1 + i % 7]) + ":", tuple(" ".join(words[j:j + 1 + (3 * i + j) % 11])
                                                             for j in range(4)), 0) for i in range(9)]
    found, cut = sequences(items, BYTES, 48)
    assert cut["contexts_cut"] > 3
    whole = []
    with torch.no_grad():  # a sequence's loss less that of its start: what a causal model's ending costs
        for sequence in found:
            tokens = torch.tensor([sequence.tokens])
            losses = [float(model(part[:, :-1], part[:, 1:])) if part.size(1) > 1 else 0.0
                      for part in (tokens, tokens[:, :-sequence.scored])]
            whole.append(losses[1] - losses[0])
    alone, together = score_all(model, found, 1), score_all(model, found, 300)
    assert together.tolist() == pytest.approx(alone.tolist(), rel=1e-5)
    assert alone.tolist() == pytest.approx(whole, rel=1e-4)
    assert len({round(value, 3) for value in whole}) > 20


def test_what_is_too_long_is_cut_on_the_left(saved, tmp_path, capsys):
    found, cut = sequences([Item("abcdef", ("g", "ghijk", "ghijklmno", "ghi"), 0)], BYTES, 8)
    assert [bytes(s.tokens) for s in found] == [b"abcdef g", b"def ghijk", b"ghijklmno", b"bcdef ghi"]
    assert [s.scored for s in found] == [2, 6, 8, 4] and cut == dict(contexts_cut=3, endings_cut=1)
    data = write(tmp_path / "a.jsonl", [row(["a" * 40, "b", "c" * 20, "d"], 0, ctx_a="y" * 20)] * 3)
    assert eval_hellaswag.main([saved, "--track", "echo", "--data", data, "--limit", 2]) == 0
    out = capsys.readouterr().out
    assert "4 of 8 sequences are longer than the model's 32 tokens: cut on the left, 2 of them within" in out
    assert "a quick look, not a result: the first 2 of 3 items" in out and "no published file" in out


########################################
#                Items                 #
########################################


def test_gpt2_tokens_of_the_parts_are_those_of_the_whole(bpe, tmp_path, capsys):  # noqa: F811
    encode = encoder(50304)
    items = [Item("Cut it. ", ("Then it's 42 done!", " Stir", "日本語 naïve", "-- x"), 0),
             Item("A:", ("b",) * 4, 1)]
    found, _ = sequences(items, encode, 1024)
    texts = [f"{item.query} {ending}" for item in items for ending in item.endings]
    assert [s.tokens for s in found] == [encode(text) for text in texts]
    assert [s.tokens[-s.scored:] for s in found[4:]] == [encode(" b")] * 4
    assert found[0].scored == len(encode("  Then it's 42 done!"))  # the query's last space is the ending's
    model = GPT(ModelConfig(50304, 1, 16, head_dim=16))
    train_gpt.initialise(model, 0)
    uniform = [-s.scored * math.log(50304) for s in found]
    assert score_all(model, found, 100).tolist() == pytest.approx(uniform, rel=1e-4)


def lines_of(*changes):
    """A good row's line, then one a change: a dict that updates it, or text in its place."""
    good = row(list("abcd"), 0)
    return "".join((c if isinstance(c, str) else json.dumps(good | c)) + "\n" for c in ({}, *changes))


@pytest.mark.parametrize("name, content, words, code", [
    ("a.jsonl", lines_of('{"ind": '), "a.jsonl:2: not JSON", 1),
    ("a.jsonl", lines_of("", "[1]"), "a.jsonl:3: a JSON list", 1),
    ("a.jsonl", lines_of("[" * 100_000), "a.jsonl:2: not JSON", 1),
    ("a.jsonl", lines_of('{"ctx": "x"}'), "a.jsonl:2: no field 'activity_label'", 1),
    ("a.jsonl", lines_of({"ctx_b": None}), "a.jsonl:2: activity_label, ctx_a, ctx_b and the endings must", 1),
    ("a.jsonl", lines_of({"endings": ["a", "b", "c"]}), "a.jsonl:2: the field 'endings' is not a list", 1),
    ("a.jsonl", lines_of({"endings": "abcd"}), "not a list of four", 1),
    ("a.jsonl", lines_of({"endings": ["a", "b", "c", 4]}), "must be text", 1),
    ("a.jsonl", lines_of({"endings": ["a", "b", "c", "[step]"]}), "an ending is empty", 1),
    ("a.jsonl", lines_of({"ctx_a": "\ud800"}), "a.jsonl:2: holds half of a surrogate pair", 1),
    ("a.jsonl", lines_of({"label": ""}), "the label is '', not 0, 1, 2 or 3 (the test split has none)", 1),
    ("a.jsonl", lines_of({"label": 4}), "the label is '4'", 1),
    ("a.jsonl", lines_of({"label": True}), "the label is 'True'", 1),
    ("a.jsonl", "\n", "a.jsonl: holds no item", 1),
    ("a.parquet", "PAR1 nothing PAR1", "a.parquet: unreadable parquet", 1),
    ("a.csv", "x", "unknown kind of file; known: .jsonl, .parquet", 2),
    ("absent.jsonl", None, "no such file", 2)])
def test_bad_data_is_one_line(saved, tmp_path, capsys, name, content, words, code):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert words in refused(capsys, saved, "--track", "echo", "--data", tmp_path / name, code=code)


########################################
#               Weights                #
########################################


@pytest.mark.process
def test_the_log_beside_the_weights_says_which_model(laptop, tmp_path, capsys):
    words = ("--device cpu --track laptop --recipe muon --allow-custom --track.context 64 --steps 1 --save "
             "--track.tokens_per_step 256 --track.val_tokens 256 --track.model.num_layers 1 "
             "--track.model.model_dim 32 --track.model.mlp swiglu --seeds 7").split()
    assert train_gpt.main([*words, "--data-dir", laptop, "--log-dir", tmp_path / "run"]) == 0
    capsys.readouterr()
    weights, data = tmp_path / "run" / "weights_seed7.pt", write(tmp_path / "a.jsonl", ROWS)
    result = answer(capsys, weights, "--data", data)
    assert (result["track"], result["context"], result["items"]) == ("laptop (custom)", 64, 4)
    other = refused(capsys, weights, "--track", "laptop", "--data", data)
    assert "does not load as the model of laptop" in other

    (log,) = (tmp_path / "run").glob("*.txt")
    log.write_text(log.read_text().replace('"head_dim": 32', '"head_dim": 16'))
    assert "does not say which model it trained (line" in refused(capsys, weights, "--data", data)
    (tmp_path / "run" / "second.txt").write_text("notes")
    assert "2 logs (*.txt) stand beside it" in refused(capsys, weights, "--data", data, code=2)


@pytest.mark.parametrize("content, words, code", [
    (b"", "does not load", 1), (b"PK\x03\x04 no zip", "does not load", 1), ([1, 2], "does not load", 1),
    ({"embed.weight": 3}, "does not load", 1), ("nan", "not finite", 1), (None, "no such file", 2)])
def test_bad_weights_are_one_line(saved, tmp_path, capsys, content, words, code):
    if content == "nan":
        state = torch.load(saved, weights_only=True)
        state["proj.bias"][0] = math.nan
        torch.save(state, saved)
    elif content is None:
        saved.unlink()
    elif isinstance(content, bytes):
        saved.write_bytes(content)
    else:
        torch.save(content, saved)
    data = write(tmp_path / "a.jsonl", ROWS)
    assert words in refused(capsys, saved, "--track", "echo", "--data", data, code=code)


@pytest.mark.parametrize("args, words", [
    (["w.pt", "--track", "laptp"], "unknown track 'laptp'; did you mean laptop"), ([], "WEIGHTS"),
    (["w.pt", "--limit", "0"], "--limit 0"), (["w.pt", "--nonsense"], "--help"),
    (["w.pt", "--track", "350m"], "w.pt: no such file")])
def test_wrong_usage(capsys, args, words):
    assert words in refused(capsys, *args, code=2)


def test_a_vocabulary_without_a_tokenizer():
    with pytest.raises(Refusal, match="no tokenizer is known for a vocabulary of 300"):
        encoder(300)


########################################
#        The hub, and a process        #
########################################


def test_the_items_are_the_hubs_where_no_file_is_named(saved, tmp_path, monkeypatch, capsys):
    name, folder = hellaswag.FILE, tmp_path / "data" / "hellaswag"
    (folder / name).parent.mkdir(parents=True)
    parquet_of(folder / name, [r | dict(label=str(r["label"])) for r in ROWS])
    hub.save_manifest(folder, {name: hub.entry_of(folder / name, sha256_of(folder / name), "c")}, "of/tests")
    monkeypatch.setattr(evaluate_hellaswag, "ROOT", tmp_path)  # the real hub's file would have other items
    result = answer(capsys, saved, "--track", "echo")
    assert (result["acc_norm"], result["items"], result["data"]["published"]) == (3 / 4, 4, None)


@pytest.mark.process
def test_help_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "eval_hellaswag.py", "--help"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "python scripts/eval_hellaswag.py logs/RUN/" in done.stdout
    assert done.stderr == ""
