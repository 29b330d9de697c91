"""Malformed shards, checkpoints, logs, command lines and recipes: no traceback, exit code 1 or 2, and one
line that names cause and fix."""
import hashlib
import importlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_gpt
from speedrun.log.format import digest
from speedrun.log.reader import read_log
from speedrun.training import checkpoint
from tests.support import bad_inputs
from tests.support.bad_inputs import SMALL, fill
from tests.support.ranks import ROOT, command

pytestmark = pytest.mark.process

FILES = sorted(path for folder in ("scripts", "data", "tests/bench") for path in (ROOT / folder).glob("*.py"))
COMMANDS = ["train_gpt.py", "speedrun/training/needs.py",
            *(str(path.relative_to(ROOT)) for path in FILES if "\n@command\n" in path.read_text())]
# A fix is a command, an option, a near name, or what to do.
FIX = re.compile(r"--\w|`|did you mean|known:|is true or false|\b(run|give|choose|name|mend|fix|free|fetch|"
                 r"make|leave|must|take|needs?|lies?|see|write|at least|start|use|unset)\b")


def ask(path, words):
    """The exit code of the command in the file `path`, run in this process."""
    main = importlib.import_module(path.removesuffix(".py").replace("/", ".")).main
    try:
        return main(list(map(str, words)))
    except SystemExit as stop:  # as argparse ends --help
        return stop.code


def judge(path, code, out, err):
    """What is wrong with the answer of a command to what it cannot work with; "" where nothing is."""
    name, lines = Path(path).name, err.splitlines()
    if path == "speedrun/training/needs.py" and lines and lines[0].startswith("train_gpt.py: "):
        name = "train_gpt.py"  # whose words they are
    if code not in (1, 2):
        return f"exit code {code}: {err}{out[-300:]}"
    if "Traceback" in err + out:
        return err
    if path in ("scripts/verify.py", "scripts/preflight.py") and code == 1 and out:  # a line a finding
        return "" if all(1 <= len(line) < 1000 for line in out.splitlines()) else out
    if len(lines) != 1 or not lines[0].startswith(f"{name}: "):
        return f"{len(lines)} lines: {err[:2000]}"
    if not FIX.search(lines[0].removeprefix(f"{name}: ")) or len(lines[0]) > 1000:
        return f"no fix: {lines[0][:1500]}"
    return ""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return bad_inputs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def wrong(capsys):
    """wrong(path, words): what `judge` says of the command in this process."""
    def run(path, words):
        code = ask(path, words)
        return judge(path, code, *capsys.readouterr())
    return run


def test_command_lines_of_the_trainer(wrong, files, laptop):
    base = ["--device", "cpu", "--track", "laptop", "--data-dir", str(laptop), "--log-dir", str(files["out"])]
    found = {" ".join(words): wrong("train_gpt.py", fill(base + words, files))
             for words in bad_inputs.TRAINER}
    assert {words: said for words, said in found.items() if said} == {} and len(found) > 80
    assert not files["out"].exists()


def test_command_lines_of_the_others(wrong, files, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = bad_inputs.OTHERS + [(path, ["--nonsense"]) for path in COMMANDS]
    found = {f"{path} {' '.join(words)}": wrong(path, fill(words, files)) for path, words in cases}
    assert {words: said for words, said in found.items() if said} == {} and len(found) > 100
    assert {path for path, _ in cases} == set(COMMANDS)  # each command is asked


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards(wrong, laptop, tmp_path, split):
    good = next(laptop.glob("*_val_*.bin")).read_bytes()
    found = {}
    for name, content in bad_inputs.shards(good):
        data = bad_inputs.shard_folder(tmp_path / name, laptop, split, content)
        found[name] = wrong("train_gpt.py", [*SMALL, "--steps", "20", "--data-dir", data, "--log-dir",
                                             tmp_path / f"{name} log"])
        assert not list(tmp_path.glob("* log/*.txt")), name  # nothing was begun
    assert {name: said for name, said in found.items() if said} == {} and len(found) > 20


def test_logs(wrong, files, tmp_path):
    found = {}
    for name, content in bad_inputs.logs(files["whole.txt"].read_text()):
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        for words in (["scripts/verify.py", path], ["scripts/stats.py", "one", path],
                      ["scripts/report.py", path, "--out", tmp_path / "report"],
                      ["scripts/replay.py", path, "--log-dir", tmp_path / "replay"]):
            said = wrong(words[0], words[1:])
            if name.startswith("header") and words[0] in ("scripts/stats.py", "scripts/report.py"):
                said = said * (not said.startswith("exit code 0"))  # the losses are whole, and all they read
            found[f"{words[0]} {name}"] = said
    assert {name: said for name, said in found.items() if said} == {} and len(found) > 100


def test_logs_to_be_resumed(wrong, files, laptop, tmp_path):
    whole, found = files["whole.txt"].read_text(), {}
    whole = whole[:whole.index("\n@ end ") + 1]
    for name, content in bad_inputs.logs(whole):
        folder, path = tmp_path / name, tmp_path / name / name
        folder.mkdir()
        path.mkdir() if content is None else path.write_bytes(content)
        found[name] = wrong("train_gpt.py", ["--resume", folder, "--data-dir", laptop, "--device", "cpu"])
    assert {name: said for name, said in found.items() if said} == {} and len(found) > 20


########################################
#             Checkpoints              #
########################################


@pytest.fixture(scope="module")
def stopped(laptop, tmp_path_factory):
    """The folder of a run of three steps, with two checkpoints and without an end."""
    folder = tmp_path_factory.mktemp("stopped") / "log"
    words = command(laptop, folder, "--steps", "3", "--checkpoint-every", "1", "--track.val_every", "100")
    assert train_gpt.main(words) == 0
    (path,) = folder.glob("*.txt")
    whole = path.read_text()
    path.write_text(whole[:whole.index("\nstep:3/") + 1])
    return folder


def write(path, about, tensors):
    """A checkpoint with the sha256 of what is in it, whatever that is."""
    data = tensors
    if not isinstance(tensors, bytes):
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        data = buffer.getvalue()
    path.with_suffix(".pt").write_bytes(data)
    about = dict(about, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_text(json.dumps(dict(about, check=digest(about))))


class Loud:
    """What a pickle that is run would show."""

    def __reduce__(self):
        return os.mkdir, ("it-was-run",)


FORGED = {
    "no tensors": lambda t: b"", "text": lambda t: b"hello", "a pickle": lambda t: pickle.dumps(t),
    "a pickle that runs": lambda t: pickle.dumps(Loud()),
    "a zip that runs": lambda t: Loud(), "a list": lambda t: [1], "nothing in it": lambda t: {},
    "no model": lambda t: {k: v for k, v in t.items() if k != "model"},
    "no optimizers": lambda t: dict(t, optimizers=[]), "an optimizer of words": lambda t: dict(
        t, optimizers=["a"] * len(t["optimizers"])),
    "an empty optimizer": lambda t: dict(t, optimizers=[{}] * len(t["optimizers"])),
    "a matrix of another shape": lambda t: dict(t, model={**t["model"], "embed.weight": torch.ones(2, 3)}),
    "a weight less": lambda t: dict(t, model=dict(list(t["model"].items())[1:])),
    "a generator of words": lambda t: dict(t, generator="a"),
    "a generator too short": lambda t: dict(t, generator=t["generator"][:5]),
    "wrappers too many": lambda t: dict(t, wrappers=[{}]),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FORGED)
def test_forged_checkpoints(capsys, stopped, laptop, tmp_path, monkeypatch, name):
    """Their sha256 are right, so what they hold is looked at; what is code is not run."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(stopped, tmp_path / "log"))
    for path in folder.glob("checkpoint_*.json"):
        about, tensors = checkpoint.load(path)
        write(path, about, FORGED[name](tensors))
    code = train_gpt.main(["--resume", folder, "--data-dir", laptop])
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    passed = [line for line in lines if " is passed over: " in line]
    assert not (tmp_path / "it-was-run").exists() and not any("Traceback" in line for line in lines)
    assert len(passed) == 2 if code == 0 else code == 1 and len(lines) == 1 and "checkpoint" in lines[0]


ABOUT = {
    "a step of words": dict(step="a"), "a negative step": dict(step=-1), "no bytes": dict(bytes=None),
    "a step behind the end": dict(step=99), "seconds of words": dict(seconds="a"),
    "seconds below zero": dict(seconds=-1.0),
    "another seed": dict(seed=5), "another run": dict(identity="0" * 64)}
TEXTS = {"empty": "", "list": "[]", "null": "null", "deep": bad_inputs.DEEP, "cut": '{"seed": 0, ',
         "NUL": "\0", "huge": '{"check": 1e999}', "no check": "{}"}


def test_texts_that_are_no_checkpoint(stopped, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "log"))
    path = next(folder.glob("checkpoint_*.json"))
    for name, content in TEXTS.items():
        path.write_text(content)
        with pytest.raises(ValueError, match="its JSON is damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize("name", ABOUT)
def test_jsons_of_checkpoints(capsys, stopped, laptop, tmp_path, name):
    folder = Path(shutil.copytree(stopped, tmp_path / "log"))
    for path in folder.glob("checkpoint_*.json"):
        about = json.loads(path.read_text())
        about.pop("check")
        about.update(ABOUT[name])
        path.write_text(json.dumps(dict(about, check=digest(about))))
    assert train_gpt.main(["--resume", folder, "--data-dir", laptop]) == 0
    lines = capsys.readouterr().err.splitlines()
    # one of another seed or run is none of this run's, and no damaged one
    assert [" is passed over: " in line for line in lines] == [True, True] * ("another" not in name), lines
    (path,) = folder.glob("*.txt")
    log = read_log(path)
    assert log.problems == [] and [data["step"] for _, kind, data in log.events if kind == "resume"] == [0]


########################################
#              Processes               #
########################################


SAMPLE = (["--nonsense"], ["--out"], ["--out", "{a file}/inside"])
PROCESSES = [["data/sample.py", *words] for words in SAMPLE]
PROCESSES += [["data/cached_fineweb10B.py", *words]
              for words in (["104"], ["many"], ["-1"], ["--out", "{a file}"])]
PROCESSES += [["data/tokenize_text.py", *words, "--tokenizer", "bytes"] for words in (
    [], *([name, "--out", "{out}"] for name in ("{deep.jsonl}", "{lists.jsonl}", "{absent}.txt",
                                                "{a file}")))]
PROCESSES += [["data/sample.py", "--out", "{a file}"], ["data/sample.py", "extra"],
              ["train_gpt.py", "--allow-custom", "--track.model.model_dim", "1099511627776"]]


def process(path, words, **env):
    done = subprocess.run([sys.executable, ROOT / path, *map(str, words)], cwd="/", capture_output=True,
                          text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **env})
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", PROCESSES, ids=lambda words: " ".join(words))
def test_processes(files, words):
    assert judge(words[0], *process(words[0], fill(words[1:], files))) == ""


@pytest.mark.parametrize("name", bad_inputs.MANIFESTS)
def test_manifests(tmp_path, name):
    (tmp_path / "manifest.json").write_text(bad_inputs.MANIFESTS[name])
    code, out, err = process("data/cached_fineweb10B.py", ["1", "--out", tmp_path], HF_HUB_OFFLINE="1",
                             HF_HOME=str(tmp_path))
    first, *rest = err.splitlines()
    assert "manifest.json: unreadable" in first
    assert judge("data/cached_fineweb10B.py", code, out, "\n".join(rest)) == ""
