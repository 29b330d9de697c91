"""A small repository of the layout of modded-nanogpt, for what reads its track 3."""
import subprocess
from pathlib import Path

FOLDER = Path("records/track_3_optimization")
RULE = "=" * 100
HEAD = (f"code {{}}\n{RULE}\nRunning on device_name=NVIDIA H100 with world_size={{}}\n"
        f"Using seed={{}}\n{RULE}\n")
STEPS = (0, 1000, 2000, 2100, 2200, 2300)


def log(final, seed=0, code="a", size=8, extra="", printed=False):
    """A run whose loss falls by 0.005 a hundred steps to `final` at step 2200; 150 ms a step, after a minute
    of compiling."""
    losses = [10.8, 3.5, final + 0.01, final + 0.005, final, final - 0.005]
    text = "" if printed else HEAD.format(code, size, seed)
    for step, loss in zip(STEPS, losses):
        seconds = 60 + 0.15 * step if step else 0
        text += f"step:{step}/2300 val_loss:{loss:.5f}{extra} train_time:{seconds:.3f}s step_avg:1.00ms\n"
    return text


def row(number, steps, mean, n, link, what="[Muon](https://x) with aux Adam, lr=.02 (tuned)"):
    return f"| {number} | {steps} | {mean} (n={n})✓ | {what} | 2026/05/01 | [log]({link}) | [x](y) |"


def git(folder, *words):
    author = ["-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *author, *words], check=True, capture_output=True)


def make_clone(folder: Path, rows: list[str], files: dict[str, str]) -> Path:
    """`folder`, made a repository whose README has these rows, with these files beside it, all committed."""
    root = folder / FOLDER
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    table = ["# Results", "| # | Steps | Evidence | Description | Date | Log | Who |", "| - |", *rows]
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text("\n".join(table) + "\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return folder
