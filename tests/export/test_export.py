"""scripts/export.py: the exported sections at work in a stand-in for the upstream script."""
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from optimizers import RECIPES, TailAverage
from optimizers.stage import Stage
from scripts import export
from speedrun.cli import Refusal
from speedrun.export.sections import read_sections
from speedrun.export.source import gather
from tests.support.stand_in import PIECES, UPSTREAM, exported, filled

MODULE_FORM = '''
    recipe = resolve({name!r}, "fineweb-124m")
    train_steps = recipe.steps
    print0(f"Using seed={{_}}")
    initialise(model, _, recipe.init)
    optimizers = build_optimizers(model, recipe)

    def set_hparams(step):
        for opt in optimizers:
            for group in opt.param_groups:
                group["lr"] = group["initial_lr"] * lr_factor(step, recipe, group["cooldown_frac"])

'''


def module_form(name):
    return filled("from optimizers import build_optimizers, resolve\n"
                  "from train_gpt import initialise, lr_factor\n", MODULE_FORM.format(name=name))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """What a script prints, run in this process as the only rank."""
    def run(text, *args):
        path = tmp_path / "script.py"
        path.write_text(text)
        monkeypatch.setattr(sys, "argv", [str(path), *args])
        for name, value in dict(RANK=0, WORLD_SIZE=1, MEETING=tmp_path / "meeting").items():
            monkeypatch.setenv(name, str(value))
        capsys.readouterr()
        runpy.run_path(str(path), run_name="script")
        return capsys.readouterr().out.splitlines()
    return run


########################################
#              The script              #
########################################


@pytest.mark.parametrize("name", RECIPES)
def test_exported_sections_train_as_the_modules_do(upstream, run, name):
    text = exported(upstream, name)
    assert text.startswith(PIECES[0]) and text.endswith(PIECES[2]) and text.count(PIECES[1]) == 1
    losses = run(text, "2")
    assert losses == run(module_form(name), "2")  # losses, learning rates and weights, to the last bit
    assert losses[0] == "Using seed=0" and len(losses) == 2 * (1 + 7 * 2 + 1)
    assert len({line for line in losses if line.startswith("weights")}) == 2


@pytest.mark.process
@pytest.mark.long
def test_two_ranks_with_torch_alone(upstream, run, tmp_path):
    text = exported(upstream, "track3-17")
    one = run(text, "3", "1")
    assert one[0] == "Using seed=3"
    script, empty = tmp_path / "two.py", tmp_path / "empty"
    script.write_text(text)
    empty.mkdir()
    env = {**os.environ, "WORLD_SIZE": "2", "MEETING": str(empty / "meeting")}
    ranks = [subprocess.Popen([sys.executable, "-I", script, "3", "1"], cwd=empty, text=True,
                              stdout=subprocess.PIPE, env={**env, "RANK": str(rank)}) for rank in range(2)]
    said = [process.communicate(timeout=240)[0].splitlines() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert len({lines[-1].split(": ")[1] for lines in said}) == 1  # the ranks' weights, bit for bit
    assert [loss_of(line) for line in said[0] if "loss:" in line] == pytest.approx(
        [loss_of(line) for line in one if "loss:" in line], rel=1e-4)


def loss_of(line):
    return float(line.split("loss:")[1])


def test_an_exported_muon_is_short(upstream):
    """Who reviews it has a script of 372 lines, of which 270 are not of the sections that are replaced."""
    others = sum(piece.count("\n") for piece in PIECES)
    assert exported(upstream, "muon").count("\n") - others + 270 <= 620


def test_export_of_an_export_is_the_same(upstream):
    first = exported(upstream, "aurora")
    upstream.write_text(exported(upstream, "track3-5"))
    assert exported(upstream, "aurora") == first
    assert [section.title for section in read_sections(first)] == [
        section.title for section in read_sections(UPSTREAM)]


def test_line_ends_stay(upstream, capsysbinary):
    expected = exported(upstream, "muon")
    upstream.write_bytes(UPSTREAM.replace("\n", "\r\n").encode())
    capsysbinary.readouterr()
    assert export.main(["muon", "--upstream", upstream]) == 0
    assert capsysbinary.readouterr().out == expected.replace("\n", "\r\n").encode()


def test_the_difference_is_shown_and_json_is_one_object(upstream, capsys):
    assert export.main(["adamw", "--upstream", upstream, "--json"]) == 0
    said = capsys.readouterr()
    found, changed = json.loads(said.out), [line for line in said.err.splitlines() if line[0] in "+-"][2:]
    assert found["text"] == exported(upstream, "adamw") and found["out"] is None
    assert sum(line[0] == "+" for line in changed) == found["added"] > 40
    assert sum(line[0] == "-" for line in changed) == found["removed"] > 0
    assert found["added"] - found["removed"] == found["text"].count("\n") - UPSTREAM.count("\n")
    assert "-class Old:" in changed and "+    train_steps = 5625  # where a run stops" in changed


@dataclass
class Unnamed(Stage):
    __repr__ = object.__repr__


class Undefined(Stage):
    def __repr__(self):
        return "Undefined()"


@pytest.mark.parametrize("change, says", [
    (dict(wrappers=(TailAverage(),)), "the wrapper TailAverage"),
    (dict(matrices=(Unnamed(),)), "no repr that builds it again"),
    (dict(matrices=(Undefined(),)), "recipes.py defines no Undefined"),
    (dict(lr=-1.0), "recipe.lr must lie in")])
def test_recipes_that_cannot_be_exported(upstream, monkeypatch, capsys, change, says):
    monkeypatch.setitem(RECIPES, "odd", replace(RECIPES["muon"], name="odd", **change))
    assert export.main(["odd", "--upstream", upstream]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


@pytest.mark.parametrize("old, new, says", [
    ("#              Optimizer               #", "# Muonizer #", "'Optimizer' is not there"),
    ("#                Setup                 #", "# Optimizer #", "'Optimizer' is there twice"),
    ("for _ in range(num_trials):", "if num_trials:", "is not in a loop over trials"),
    ("num_trials = int(sys.argv[-1])", "num_trials = ", "is not Python without these two sections"),
    ("num_trials = int(sys.argv[-1])", "num_trials = \\0", "is not Python without these two sections"),
    ("def print0(s", "def log0(s", "lack or lose print0"),
    ("num_trials = int(sys.argv[-1])", "num_trials, old = 1, Old()", "lack or lose Old"),
    ("num_trials = int(sys.argv[-1])", "num_trials, polar = 1, 0", "bind polar, too"),
    (UPSTREAM, "", "'Optimizer' is not there; it has none"),
    ("import hashlib", "\udcff", "is not UTF-8 text")])
def test_scripts_that_are_another(upstream, capsys, old, new, says):
    assert UPSTREAM.count(old) == 1
    text = UPSTREAM.replace(old, new.replace("\\0", "\0"))
    upstream.write_bytes(text.encode(errors="surrogateescape"))
    assert export.main(["muon", "--upstream", upstream]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


@pytest.mark.parametrize("args, says", [
    ([], "name a RECIPE"), (["muon"], "name a RECIPE"), (["muon", "--upstream", "none.py"], "No such file"),
    (["moun", "--upstream", "none.py"], "did you mean muon"),
    (["muon", "--upstream", "."], "Is a directory"),
    (["--evidence", "a.txt"], "--out DIR"),
    (["muon", "--evidence", "a.txt", "--out", "b"], "neither RECIPE"),
    (["muon", "--upstream", "upstream.py", "--out", "./upstream.py"], "is the --upstream file")])
def test_wrong_usage_is_one_line(upstream, monkeypatch, capsys, args, says):
    monkeypatch.chdir(upstream.parent)
    assert export.main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error and upstream.read_text() == UPSTREAM


########################################
#         Gathering definitions        #
########################################


@pytest.fixture
def package(tmp_path):
    """Writes files of a package and gathers from it."""
    def write(wanted=("p/b.py", "B"), **files):
        (tmp_path / "p").mkdir()
        for name, text in {"a": "", "b": "", "__init__": "", **files}.items():
            (tmp_path / "p" / f"{name}.py").write_text(text)
        return gather(tmp_path, [wanted])
    return write


def test_gathered_is_what_is_used_in_order(package):
    found = package(("p/__init__.py", "B"), __init__="from .b import B\n", a='''
import math
from os import path as where, sep

# How much.
SIZE = math.pi
SPARE = sep


def unused():
    return where
''', b='''
import torch
from .a import SIZE


class Base:
    """A base
    of what is built on it.

    More of it, which is not for this place.
    """


@staticmethod
def helper(x=SIZE):
    return x


class B(Base):
    size: float = SIZE

    def call(self):
        """Calls.

        >>> B().call()
        """
        return helper()
''')
    assert found.code == '''# From p/a.py

# How much.
SIZE = math.pi

# From p/b.py

class Base:
    """A base
    of what is built on it."""

@staticmethod
def helper(x=SIZE):
    return x

class B(Base):
    size: float = SIZE

    def call(self):
        """Calls."""
        return helper()
'''
    assert found.names == {"SIZE", "Base", "helper", "B"}
    assert [(i.module, i.of, i.name) for i in found.imports] == [("math", None, "math")]


TABLE = '''
import math
from .a import exact, rough


class Other:
    pass


NAMES = {  # by method
    # The best one.
    "exact": exact,
    # Made of two parts.
    "rough": (rough,
              Other),
    "none": math.inf,
}
UNSAFE = {"none": "always"}


def B(method="exact"):
    return NAMES[method], UNSAFE.get(method)
'''


@pytest.fixture
def with_tables(tmp_path):
    """Gathers B of TABLE, whose tables are NAMES and UNSAFE, with some words."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.py").write_text("MORE = 1\ndef exact(): pass\ndef rough(): return MORE\n")
    (tmp_path / "p/b.py").write_text(TABLE)
    tables = [("p/b.py", "NAMES"), ("p/b.py", "UNSAFE")]
    return lambda *words: gather(tmp_path, [("p/b.py", "B")], tables, words)


EXACT = ["    # The best one.", '    "exact": exact,']
ROUGH = ["    # Made of two parts.", '    "rough": (rough,', "              Other),"]


@pytest.mark.parametrize("words, rows, names", [
    ((), EXACT, {"exact"}), (("rough",), EXACT + ROUGH, {"exact", "rough", "Other", "MORE"})])
def test_a_table_has_the_rows_that_are_used(with_tables, words, rows, names):
    found = with_tables(*words)
    lines = found.code.splitlines()
    at = lines.index("NAMES = {  # by method")
    assert lines[at + 1:at + 3 + len(rows)] == [*rows, "}", "UNSAFE = {}"]
    assert found.names == {"B", "NAMES", "UNSAFE", *names} and not found.imports
    exec(found.code, {})


def test_a_table_whose_rows_are_all_used_is_whole(with_tables):
    found = with_tables("rough", "none")
    assert TABLE[TABLE.index("NAMES"):TABLE.index("\n\n\ndef B")] in found.code
    assert [i.name for i in found.imports] == ["math"]


@pytest.mark.parametrize("files, says", [
    (dict(a="A = 1", b="from .a import A as X\nB = X"), "under a name not its own"),
    (dict(a="A = 1", b="import p.a\nB = p.a.A"), "imports p as a module"),
    (dict(a="A = 1", b="from . import a\nB = a.A"), "p/__init__.py defines no a"),
    (dict(a="def f(): return B\nB = 2", b="from .a import f\nB = f"), "both define B"),
    (dict(b="def B():\n    from .a import A\n    return A"), "inside a definition"),
    (dict(b="def B():\n    import p.a\n    return p.a.A"), "inside a definition"),
    (dict(b="from .a import B"), "p/a.py defines no B")])
def test_what_does_not_fit_into_one_file(package, files, says):
    with pytest.raises(Refusal, match=says):
        package(**files)
