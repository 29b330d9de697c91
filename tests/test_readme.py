"""What README shows is what works: its stage, its recipe, its snippets."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def block(part):
    found = [text for text in BLOCKS if part in text]
    assert len(found) == 1, part
    return found[0]


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


def test_the_optimizer_snippet():
    import torch

    from train_gpt import GPT, ModelConfig
    names = dict(model=GPT(ModelConfig(32, 1, 16, head_dim=8, dtype="float32")))
    exec(block("matrices = "), names)
    assert len(names["optimizer"].param_groups[0]["params"]) == 6
    assert isinstance(names["optimizer"], torch.optim.Optimizer)


def test_the_files_it_names_exist():
    folders = "scripts|data|optimizers|tests|records|docs"
    for path in re.findall(rf"(?:{folders})/[a-zA-Z0-9_./-]*\.(?:py|sh|png|md)", README):
        assert (ROOT / path).exists() or path == "optimizers/sign.py", path
