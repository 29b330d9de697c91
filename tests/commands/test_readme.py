"""What README shows is what works and what the logs give: stage, recipe, snippets, board, every figure."""
import re
import shutil
import subprocess
import sys
from datetime import datetime

import pytest

from data import shards
from optimizers import RECIPES
from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.report import runs
from speedrun.stats import intervals
from speedrun.stats.crossing import mean_crossing
from tracks import PRESETS, TRACKS
from train_gpt import GPT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def block(part):
    found = [text for text in BLOCKS if part in text]
    assert len(found) == 1, part
    return found[0]


@pytest.mark.process
def test_the_stage_and_the_recipe_of_adding_an_optimizer(tmp_path):
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "optimizers", tmp_path / "optimizers", ignore=leave)
    (tmp_path / "optimizers/sign.py").write_text(block("class SoftSign"))
    recipes = tmp_path / "optimizers/recipes.py"
    assert "`from .sign import SoftSign`" in README
    text = recipes.read_text().replace("\nfrom .", "\nfrom .sign import SoftSign\nfrom .", 1)
    recipes.write_text(text + "\n\n" + block("derive("))
    code = ("import torch\nfrom optimizers import MatrixOptimizer, resolve\n"
            "recipe = resolve('softsign', 'laptop'); recipe.check()\n"
            "p = torch.nn.Parameter(torch.zeros(3, 2)); p.grad = torch.ones(3, 2)\n"
            "MatrixOptimizer([p], recipe.matrices, recipe.lr).step()\n"
            "print(recipe.lr, recipe.steps, (p < 0).all().item(), recipe.resolved()['matrices'][1])\n"
            "muon, there = resolve('muon', 'laptop'), resolve('muon', 'sprint')\n"
            "print(recipe.weight_decay == muon.weight_decay, recipe.aux == muon.aux,\n"
            "      resolve('softsign', 'sprint').steps == there.steps)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)
    assert done.stdout == "0.004 300 True SoftSign(c=0.5)\nTrue True True\n", done.stderr


ALONE = """
import importlib.machinery, sys
class Fewer(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {other} else super().find_spec(name, path, target)
sys.meta_path[:] = [Fewer if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, {folder!r})
import torch
model = torch.nn.Module()
model.embed = torch.nn.Embedding(16, 8)
model.blocks = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
{block}
before = [p.clone() for p in model.parameters()]
model.blocks(model.embed(torch.arange(16))).square().sum().backward()
optimizer.step(), adamw.step()
print(len(matrices), len(others), all((a != b).any().item() for a, b in zip(before, model.parameters())))
"""


@pytest.mark.process
def test_the_optimizers_work_alone_as_their_snippet_says(tmp_path):
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "optimizers", tmp_path / "optimizers", ignore=leave)
    requirements = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), flags=re.M)
    other = {name.replace("-", "_") for name in requirements} - {"torch"} | {"train_gpt", "speedrun", "data"}
    code = ALONE.format(other=sorted(other), folder=str(tmp_path), block=block("matrices = "))
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)
    assert {"numpy", "scipy"} < other and done.stdout == "2 3 True\n", done.stderr


def test_the_files_it_names_exist():
    folders = "scripts|data|optimizers|tests|records|docs|speedrun"
    for path in re.findall(rf"(?:{folders})/[a-zA-Z0-9_./-]*\.(?:py|sh|png|md)", README):
        assert (ROOT / path).exists() or path == "optimizers/sign.py", path


def test_it_is_short():
    assert len(README.splitlines()) <= 180


########################################
#               Figures                #
########################################


def section(title):
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text, first):
    """The cells of each row of the table whose head begins with `first`, without their marks."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    table = []
    for line in lines[at + 2:]:
        if not line.startswith("|"):
            return table
        table.append([cell.strip().strip("`") for cell in line.split("|")[1:-1]])
    return table


def record(recipe):
    """The first record of a recipe: one that repeats it is no new evidence, and not on the board."""
    return min((ROOT / "records" / "laptop").glob(f"*_{recipe}"))


def test_its_board_is_what_the_logs_give():
    table, target = rows(README, "first to 1.38"), TRACKS["laptop"].target
    assert target == 1.38 and "five seeds" in README
    for recipe, step, crossing, loss, log in table:
        folder = record(recipe)
        found = runs.read_runs([folder])
        official, mean = found.official_step(target), mean_crossing(found.on_grid, target)
        losses = intervals.mean_interval(found.losses_at(found.last_step).values())
        shown = official and f"{mean['mean']:.1f} ({mean['low']:.1f} to {mean['high']:.1f})"
        assert len(found.series) == 5 and log == f"[{folder.name[:10]}](records/laptop/{folder.name})"
        assert step == (str(official["step"]) if official else "not reached"), recipe
        assert crossing == (shown or "no seed crosses") and loss == f"{losses['mean']:.4f}", recipe
    order = [float(row[2].split()[0]) for row in table[:-1]]
    assert order == sorted(order) and table[-1][2] == "no seed crosses"
    assert {row[0] for row in table} == {path.name[11:] for path in (ROOT / "records/laptop").iterdir()}


def test_its_table_of_tracks_is_that_of_the_code(laptop):
    table = {row[0]: row[1:] for row in rows(README, "track | data")}
    assert list(table) == list(TRACKS)
    for name, (_, _, tokens, target) in table.items():
        track = TRACKS[name]
        assert tokens == f"{track.tokens_per_step:,}"
        assert target.split(":")[0] == ("none" if track.target is None else f"{track.target:g}")
    fineweb, small = TRACKS["fineweb-124m"], TRACKS["laptop"]
    assert f"first {fineweb.val_tokens:,} validation tokens" in table["fineweb-124m"][0]
    assert f"{fineweb.model.num_layers} layers, width {fineweb.model.model_dim}" in table["fineweb-124m"][1]
    tokens = sum(path.stat().st_size // 2 - 512 for path in laptop.glob("*_train_*.bin"))
    assert table["laptop"][0] == f"{tokens / 1e6:.1f} MB of bytes; {small.val_tokens:,} validation tokens"
    assert table["laptop"][1] == f"{small.model.num_layers} layers, width {small.model.model_dim}"
    assert f"the track's {fineweb.tokens_per_step:,} tokens" in README
    assert PRESETS.keys() == {"350m", "1b"} and "`350m` and `1b` are models without a track" in README


def test_the_run_it_shows_is_the_one_whose_log_it_links():
    log, text = read_log(ROOT / "docs/laptop/first_run.txt.xz"), section("Try it")
    outcome = next(data for _, kind, data in log.events if kind == "outcome")
    assert (f"seed 0: val_loss {outcome['val_loss']:.4f} at step {outcome['steps']}; target 1.38 reached at "
            f"step {outcome['reached']['step']} after {outcome['reached']['seconds']:.1f} s; "
            f"{outcome['tokens_per_second']:,} tokens/s on 1 x cpu") in text
    assert f"{outcome['train_time']:.0f} s of them training" in text
    start, end = (datetime.fromisoformat(next(data[key] for _, kind, data in log.events if kind == name))
                  for name, key in (("log", "started"), ("end", "ended")))
    assert "under 6 minutes" in text and 300 < (end - start).total_seconds() < 360
    parameters = sum(p.numel() for p in GPT(TRACKS["laptop"].model).parameters())
    assert f"{parameters / 1e6:.2f} million parameters" in text
    assert f"{outcome['steps'] * TRACKS['laptop'].tokens_per_step / 1e6:.1f} million bytes" in text
    assert f"{outcome['steps']} steps" in text


def test_what_it_fetches_is_what_the_recipe_reads():
    words = shards.fetch_words(TRACKS["fineweb-124m"], RECIPES["aurora"].steps)
    assert f"python {words}  " in README
    count = int(words.split()[-1])
    size = (count + 1) * 2 * 100_000_000 / 1e9  # and the validation shard
    assert f"{count} training shards, {size:.1f} GB" in README and f"fetches {size:.1f} GB" in README


CLAIMS = {  # README's sentence -> rows of docs/findings.md that say so, with their verdicts
    "Aurora, NorMuon and U-NorMuon all end below it. Holds.": [
        ("Aurora is below Muon", "holds"), ("NorMuon is below Muon", "holds"),
        ("U-NorMuon is below Muon", "holds")],
    "NorMuon ends below Aurora. Holds, and may be its scope": [
        ("Aurora is below NorMuon, five seeds", "does not hold")],
    "with Aurora on both sides of the MLP no difference is seen": [
        ("Aurora on both sides of the MLP is below NorMuon", "not shown at this scale")],
    "a loss of gain is not shown": [
        ("K = 1 (rows before one polar) is worse than K = 2", "not shown at this scale")],
    "After four times the steps Aurora and NorMuon are still below Muon": [
        ("Aurora is still below Muon (difference in loss)", "holds"),
        ("NorMuon is still below Muon (difference in loss)", "holds")],
}


@pytest.mark.parametrize("sentence", CLAIMS)
def test_what_was_found_has_the_verdict_of_the_findings(sentence):
    assert sentence in section("What has been found").replace("\n  ", " ")
    found = (ROOT / "docs/findings.md").read_text()
    for claim, verdict in CLAIMS[sentence]:
        line, = (line for line in found.splitlines() if line.startswith(f"| {claim} |"))
        assert line.split("|")[3].strip() == verdict


def test_what_was_found_has_the_figures_of_the_findings():
    text, found = section("What has been found"), (ROOT / "docs/findings.md").read_text()
    shares = re.findall(r"[\d.]+ %", text)
    assert shares and all(f"dead by leverage in these logs is {share}" in found for share in shares)
    both, aurora, muon = (float(re.search(rf"^\| .?`{cell}`.*?\| ([\d.]+) \(sd", found, flags=re.M)[1])
                          for cell in ("aurora-x4", "aurora-x1", "muon-x1"))
    gains = [float(re.search(rf"{claim}.*?\| ([-+.\d]+) ", found)[1])
             for claim in ("Aurora is still below Muon", "Aurora is below Muon")]
    assert both < aurora < muon and "by about half as much" in text and 0.4 < gains[0] / gains[1] < 0.6
