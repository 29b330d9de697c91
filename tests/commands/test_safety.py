"""What a log must not hold, and what the project's code must not do."""
import ast
import json
import os
from pathlib import Path

import pytest

from tests.support.ranks import ROOT, Ranks, text

SOURCES = [ROOT / "train_gpt.py", *sorted(path for folder in ("data", "optimizers", "speedrun", "scripts")
                                          for path in (ROOT / folder).rglob("*.py"))]
UNPICKLE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CAUGHT = "UnpicklingError"  # of pickle: what torch.load raises


def dotted(node) -> str:
    """The name of an expression, "torch.load"; "" for what has none."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def forbidden(tree):
    """(line, what) of each import and call in `tree` that runs what data says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLE:
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name != CAUGHT)
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names
                        if alias.name.split(".")[0] in UNPICKLE and (alias.name != "pickle" or alias.asname))
        if isinstance(node, ast.Attribute) and dotted(node.value) in UNPICKLE and node.attr != CAUGHT:
            yield node.lineno, dotted(node)
        if not isinstance(node, ast.Call):
            continue
        name, options = dotted(node.func), {k.arg: k.value for k in node.keywords}
        if name in ("eval", "exec", "os.system", "os.popen", "compile", "builtins.eval", "builtins.exec"):
            yield node.lineno, name
        shell = options.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and not shell.value):
            yield node.lineno, "shell="
        if name == "torch.load":
            only = options.get("weights_only")
            if not (isinstance(only, ast.Constant) and only.value is True):
                yield node.lineno, "torch.load without weights_only=True"
        if name.split(".")[0] in ("np", "numpy") and name.endswith(".load"):
            allow = options.get("allow_pickle")
            if allow is not None and not (isinstance(allow, ast.Constant) and allow.value is False):
                yield node.lineno, "numpy.load(allow_pickle)"


def test_no_source_runs_what_data_says():
    found = {str(path.relative_to(ROOT)): list(forbidden(ast.parse(path.read_text()))) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == {} and len(found) > 60


@pytest.mark.parametrize("code", [
    "import pickle\npickle.loads(data)", "import pickle as p", "from pickle import loads",
    "import marshal", "import torch, dill", "eval(text)", "exec(text)",
    "import os\nos.system(word)", "subprocess.run(word, shell=True)", "run(word, shell=flag)",
    "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)",
    "np.load(p, allow_pickle=True)"])
def test_the_scan_finds(code):
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize("code", [
    "torch.load(path, weights_only=True)", "model.eval()", "run(word, shell=False)", "re.compile(p)",
    "torch.compile(f)", "np.load(p)", "import pickle\npickle.UnpicklingError"])
def test_the_scan_lets_pass(code):
    assert not list(forbidden(ast.parse(code)))


def test_no_shell_script_runs_what_it_is_given():
    scripts = [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]
    words = {word for path in scripts for line in path.read_text().splitlines()
             for word in line.split("#")[0].split()}
    assert len(scripts) > 3 and not words & {"eval", "source", "."}


@pytest.mark.process
def test_no_log_tells_who_ran_it_and_where(laptop, tmp_path):
    """Secrets in the environment, the host's name, and a user's paths: in the log of a run that ends for want
    of a shard, and goes on, none is found."""
    secrets = dict(WANDB_API_KEY="f00d" * 10, HF_TOKEN="hf_" + "s3cr3t" * 5, HOSTNAME="a-host-of-mine",
                   AWS_SECRET_ACCESS_KEY="sesame" * 6, USER="somebody-known", LOGNAME="somebody-known",
                   TORCH_HUB_TOKEN="t0rch" * 5, NCCL_SOCKET_IFNAME="=eth7:10.1.2.3")
    texts = dict(TORCH_TRACE="~alice-of-mine", TRITON_NOTE="a note of mine")  # named in the log, not told
    home = tmp_path / "home of-somebody" / "data"
    home.mkdir(parents=True)
    for path in laptop.glob("*.bin"):
        (home / path.name).write_bytes(path.read_bytes())
    folder = tmp_path / "home of-somebody" / "log"
    with Ranks(home, folder, environment=secrets | texts) as run:
        while "\nstep:6/" not in text(folder):
            assert run.alive(), run.said()
        shard = next(home.glob("*_train_*.bin"))
        os.truncate(shard, 5000)
        run.wait()
    shard.write_bytes((laptop / shard.name).read_bytes())
    assert "\n@ end " in text(folder)
    with Ranks(home, folder, "--resume", folder, environment=secrets | texts) as run:
        assert run.wait() == [0, 0], run.said()
    log = text(folder)
    assert "\n@ resume " in log and '"status": "complete"' in log
    events = "".join(line for line in log.splitlines(keepends=True) if line.startswith(("@ ", "step:")))
    paths = str(tmp_path), "home of", "of-somebody", str(laptop), str(ROOT) + "/"
    for word in (*secrets.values(), *texts.values(), *paths):
        assert word not in log, word
    for word in (os.uname().nodename, str(Path.home()) + "/", *secrets):  # words that a source may hold
        assert word not in events, word
    assert json.loads(events[events.index("@ run ") + 6:].split(" #")[0])["command"].count("DIR") == 2
