"""What README shows is what works: its stage, its recipe, its snippets, its figures of optimizers."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.report import group
from speedrun.stats import intervals, rule

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
    text = recipes.read_text().replace("from .step", "from .sign import SoftSign\nfrom .step", 1)
    recipes.write_text(text + "\n\n" + block("SOFTSIGN ="))
    code = ("import torch\nfrom optimizers import MatrixOptimizer, resolve\n"
            "recipe = resolve('softsign', 'laptop'); recipe.check()\n"
            "p = torch.nn.Parameter(torch.zeros(3, 2)); p.grad = torch.ones(3, 2)\n"
            "MatrixOptimizer([p], recipe.matrices, recipe.lr).step()\n"
            "print(recipe.lr, recipe.steps, (p < 0).all().item(), recipe.resolved()['matrices'][1])\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)
    assert done.stdout == "0.004 300 True SoftSign(c=0.5)\n", done.stderr


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


SPEED_ROWS = {"`Muon`, quintic12": "muon quintic12", "`Aurora`, polish": "aurora polish",
              "`Aurora`, restart, K = 2": "aurora restart", "`Muon`, quintic5": "muon quintic5"}


def test_the_losses_it_states_are_those_of_the_pages_made_from_logs():
    section = README.split("## What the `laptop` track shows")[1].split("\n## ")[0]
    pages = [*ROOT.glob("records/studies/*/README.md"), ROOT / "docs/findings.md",
             ROOT / "docs/laptop/table.md"]
    there = {number for page in pages for number in re.findall(r"\d+\.\d{4}", page.read_text())}
    for name in ("normuon", "unormuon"):
        a, b = (group.read_group([record(of)]).losses_at(300) for of in (name, "aurora"))
        found = intervals.compare(a, b)
        there |= {f"{abs(found[key]):.4f}" for key in ("mean", "low", "high")}
    stated = re.findall(r"(?<![\d.])\d*\.\d{4}(?!\d)", section)
    assert len(stated) > 50 and [n for n in stated if f"{float(n):.4f}" not in there] == []


def record(recipe):
    folder, = (ROOT / "records" / "laptop").glob(f"*_{recipe}")
    return folder


def test_the_records_losses_are_those_of_earlier_code_on_another_processor():
    differences = {}
    for recipe in ("muon", "normuon", "unormuon", "aurora", "adamw"):
        new, differences[recipe] = read_log(next(record(recipe).glob("*.xz"))), []
        for path in (ROOT / "records" / "studies" / "ladder" / recipe).glob("*.xz"):
            old = read_log(path)
            for name in ("lr", "weight_decay", "momentum", "steps", "schedule_steps", "cooldown_frac"):
                assert old.header["recipe"][name] == new.header["recipe"][name]
            assert old.header["hardware"]["name"] != new.header["hardware"]["name"]
            differences[recipe] += [abs(a.val_loss - b.val_loss) for seed in old.series
                                    for a, b in zip(old.series[seed], new.series[seed], strict=True)]
    adamw = differences.pop("adamw")
    others = [difference for of in differences.values() for difference in of]
    assert (len(others), len(adamw)) == (272, 85) and max(others) < 4.1e-5 and max(adamw) < 1.61e-4


def test_the_table_of_the_optimizers_on_a_cpu_is_that_of_its_json():
    rows = {row["name"]: row for row in json.loads((ROOT / "docs/optimizers_cpu.json").read_text())["rows"]}
    text = (ROOT / "docs/speed.md").read_text().split("## The optimizers' step on a CPU")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    row = None
    for name, *cells in table:  # "the same steps" are those of the row above
        row = rows["torch.M" + row["name"][1:] if "the same steps" in name else SPEED_ROWS[name]]
        spread = f"{row['row_spread']:{'.2g' if row['row_spread'] < .1 else '.3f'}}"
        shown = (f"{row['ratio']:.2f}", f"{row['gflop']:.1f}", f"{row['peak_mib']:.1f}", spread,
                 f"{row['sigma_max']:.3f}")
        assert [float(cell) for cell in cells] == [float(figure) for figure in shown], name
    assert len(table) == 6
    torchs = rows["torch.Muon quintic12"]["ratio"]
    assert f"torch's takes {torchs:.2f} times as long" in README
    assert f"`Aurora(schedule=\"polish\")` {rows['aurora polish']['ratio']:.2f} times" in README
