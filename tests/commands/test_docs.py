"""What the pages under docs/ and beside README say: their links, their commands, and the figures that no page
is generated from."""
import json
import re

import pytest

from scripts import bench_step
from scripts.verify import TOLERANCE
from speedrun import ROOT
from speedrun.log.reader import read_log
from speedrun.stats import planning, rule
from tracks import TRACKS

PAGES = ["README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md",
         "optimizers/README.md",
         *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
         *(str(path.relative_to(ROOT)) for path in sorted((ROOT / ".github").rglob("*.md")))]


def text(page):
    path = ROOT / page
    return path.read_text() if path.is_file() else ""


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page):
    plain = re.sub(r"```.*?```", "", text(page), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
        path, _, anchor = target.partition("#")
        if not target.startswith(("http:", "https:")):
            there = (ROOT / page).parent / path if path else ROOT / page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.resolve().relative_to(ROOT)), target


SCRIPT = r"((?:scripts|data)/\w+\.py|train_gpt\.py)"
COMMAND = re.compile(rf"(?:python|torchrun[^`\n]*?|^) ?{SCRIPT}([^`\n|#]*)", re.M)
TRAINS = {"train_gpt.py", "scripts/preflight.py", "scripts/bench_step.py"}   # take the trainer's arguments


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_have_the_options_that_it_shows(page):
    trainer = [ROOT / "speedrun/training/plan.py", ROOT / "speedrun/log/command.py", ROOT / "train_gpt.py"]
    for script, words in COMMAND.findall(text(page).replace("\\\n", " ")):
        assert (ROOT / script).is_file(), script
        sources = [ROOT / script, *trainer * (script in TRAINS)]
        known = "".join(path.read_text() for path in sources)
        for flag in re.findall(r"(?<!\S)--([a-z][\w-]*)(?![\w.-])", re.sub(r'"[^"]*"', "", words)):
            assert re.search(rf"--{flag}\b", known), f"{script} --{flag}"


def test_the_paths_in_architecture_are_there():
    shown = re.findall(r"`((?:\w+/)+[\w.]*|\w+\.py)`", text("docs/architecture.md"))
    assert len(shown) > 30
    last = ROOT
    for path in (path for path in shown if "NAME" not in path):  # a bare name is beside the path before it
        found = ROOT / path if "/" in path or (ROOT / path).exists() else last / path
        assert found.exists(), path
        last = found if found.is_dir() else found.parent


########################################
#               Findings               #
########################################


def test_the_records_losses_are_those_of_earlier_code_on_another_processor():
    differences = {}
    for recipe in ("muon", "normuon", "unormuon", "aurora", "adamw"):
        folder = min((ROOT / "records" / "laptop").glob(f"*_{recipe}"))  # the first one
        new, differences[recipe] = read_log(next(folder.glob("*.xz"))), []
        seeds = set()
        for path in (ROOT / "records" / "studies" / "ladder" / recipe).glob("*.xz"):
            old = read_log(path)
            for name in ("lr", "weight_decay", "momentum", "steps", "schedule_steps", "cooldown_frac"):
                assert old.header["recipe"][name] == new.header["recipe"][name]
            assert old.header["hardware"]["name"] != new.header["hardware"]["name"]
            differences[recipe] += [abs(a.val_loss - b.val_loss) for seed in old.series
                                    for a, b in zip(old.series[seed], new.series[seed], strict=True)]
            seeds |= set(old.series)
        assert seeds == set(range(3 if "normuon" in recipe else 5))  # normuon and unormuon: three
    adamw = differences.pop("adamw")
    others = [difference for of in differences.values() for difference in of]
    assert max(others) < 4.1e-5 and max(adamw) < 1.61e-4
    said = text("docs/findings.in.md").replace("\n", " ")
    assert (f"of {len(others)} validations of Muon and its variants on an AMD EPYC none differs from the "
            f"earlier ones by more than .00004, of AdamW's {len(adamw)} none by more than .00016") in said


def test_the_seeds_that_a_difference_takes():
    said = text("docs/findings.in.md").replace("\n", " ")
    sd = planning.difference_sd(rule.SIGMA)

    def needs(effect, sd=sd):
        return planning.seeds_needed(effect, sd, alpha=0.025)["n"]

    assert "Three seeds find a difference of .0061 nats" in said and needs(0.0061) == 3 < needs(0.006)
    gap = (3250 - 3200) * rule.NATS_PER_STEP
    assert f"is 50 steps, worth about {gap:.5f} nats: that takes eight seeds".replace("0.", ".") in said
    assert needs(gap) == 8
    gain = planning.difference_sd(rule.SIGMA * 2**0.5)
    assert "A change of a gain takes .0085 (`--sd .00184`)" in said and "show a change of .0085" in said
    assert needs(0.0085, gain) == 3 < needs(0.0084, gain)
    assert "at about .0011 there" in said and "takes 24 seeds" in said and needs(0.0011) == 24


def test_what_a_fork_saves():
    full, forked = 6 * 300, 3 * 90 + 6 * 210
    assert f"for {forked:,} steps in place of {full:,}" in text("docs/findings.in.md").replace("\n", " ")


def test_the_tolerance_of_a_rerun():
    assert f"within\n{TOLERANCE:.3f}".replace("0.", ".") in text("docs/log.md")


########################################
#                Speed                 #
########################################


SPEED = text("docs/speed.md")


def part(title):
    return SPEED.split(f"## {title}\n")[1].split("\n## ")[0]


def cells(section, first):
    """Rows of the table whose head begins with `first`, as lists of cells."""
    lines = section.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[at + 2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    return rows


@pytest.fixture
def estimate(capsys):
    def run(*words):
        assert bench_step.main(["--estimate", *words, "--json"]) == 0
        row, = json.loads(capsys.readouterr().out)["rows"]
        return row
    return run


def test_flops_of_a_step(estimate):
    model, tokens = TRACKS["fineweb-124m"].model, TRACKS["fineweb-124m"].tokens_per_step
    d, layers = model.model_dim, model.num_layers
    matrices, head, small = layers * 12 * d * d, model.vocab_size * (d + 1), layers * (4 * d + 5 * d + 2 * d)
    table = {row[0]: row[1:] for row in cells(part("FLOPs of a token, and of a step"), "| | parameters")}
    assert table["matrices of the blocks"][0] == f"{matrices / 1e6:.2f}M"
    assert table["head (50304 x 768) and its bias"][0] == f"{head / 1e6:.2f}M"
    for name, count in (("matrices of the blocks", matrices), ("head (50304 x 768) and its bias", head)):
        assert table[name][1:] == [f"{6 * count / 1e6:.1f}", f"{6 * count * tokens / 1e12:.1f}"]
    each = estimate("--track", "fineweb-124m")["flops_per_token"]
    assert table["together"] == [f"{(matrices + head + small) / 1e6:.1f}M", f"{each / 1e6:.1f}",
                                 f"{each * tokens / 1e12:.1f}"]
    assert f"that is {each * tokens / 989e12 * 1e3:.0f} ms on one H200" in SPEED


@pytest.mark.parametrize("ranks", ["8", "16", "32"])
def test_bytes_that_a_rank_sends(estimate, ranks):
    row, = (row for row in cells(part("Communication"), "| ranks") if row[0] == ranks)
    plain, fast = (estimate("--track", "fineweb-124m", "--nproc", ranks, *more)["bytes_sent"]
                   for more in ([], ["--fast"]))
    assert row[1:] == [f"{size / 1e6:,.1f}" for size in (
        plain["matrix_gradients"], fast["matrix_gradients"], plain["matrix_weights"],
        plain["other_gradients"], sum(plain.values()), sum(fast.values()))]


@pytest.mark.parametrize("track", ["fineweb-124m", "350m", "1b"])
def test_memory(estimate, track):
    row, = (row for row in cells(part("Memory"), "| | weights") if row[0] == f"`{track}`")
    found = estimate("--track", track)
    kept = [found[name] for name in ("weights", "gradients", "state")]
    assert row[1:4] == [f"{size / 2**30:.2f}" for size in kept]
    assert row[4:11] == [f"{found['needed'][str(2**i)] / 2**30:.1f}" for i in range(7)]
    assert row[11] == (str(found["fits"]) if found["fits"] else "none")


SPEED_ROWS = {"`Muon`, quintic12": "muon quintic12", "`Aurora`, polish": "aurora polish",
              "`Aurora`, restart, K = 2": "aurora restart", "`Muon`, quintic5": "muon quintic5"}


def test_the_table_of_the_optimizers_on_a_cpu_is_that_of_its_json():
    rows = {row["name"]: row for row in json.loads((ROOT / "docs/optimizers_cpu.json").read_text())["rows"]}
    section = part("The optimizers' step on a CPU")
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    row = None
    for name, *shown in table:  # "the same steps" are those of the row above
        row = rows["torch.M" + row["name"][1:] if "the same steps" in name else SPEED_ROWS[name]]
        spread = f"{row['row_spread']:{'.2g' if row['row_spread'] < .1 else '.3f'}}"
        figures = (f"{row['ratio']:.2f}", f"{row['gflop']:.1f}", f"{row['peak_mib']:.1f}", spread,
                   f"{row['sigma_max']:.3f}")
        assert [float(cell) for cell in shown] == [float(figure) for figure in figures], name
    assert len(table) == 6
    torchs = rows["torch.Muon quintic12"]["ratio"]
    assert f"torch's takes {torchs:.2f} times as long" in section
    assert f"`Aurora(schedule=\"polish\")` {rows['aurora polish']['ratio']:.2f} times" in section
