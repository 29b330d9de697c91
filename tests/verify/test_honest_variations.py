"""Honest runs in forty variations: each stands, or one line says why it is on no board."""
import gzip
import json
import lzma

import pytest

from optimizers import RECIPES
from speedrun.verify.history import History
from speedrun.verify.verdict import verdicts
from tests.support import clone
from tests.support.edits import at, both, fields
from tests.support.made_logs import challenged, make_log, parts, rechain

pytestmark = pytest.mark.process  # the lock of the name runs optimizers/ by themselves

SEEDS = "--seeds 0 1 2"


def record(top, words="", name=None, edit=None, suffix=".txt", **options):
    """The folder of a record of one log."""
    recipe = name or (words.split("--recipe ")[1].split()[0] if "--recipe " in words else "aurora")
    folder = top / f"2027-01-15_{recipe}"
    folder.mkdir()
    log = make_log(folder / "log.txt", f"{words} {SEEDS}", **options)
    if edit:
        pieces = parts(log.read_text())
        edit(pieces)
        log.write_text(rechain(pieces, digests=True))
    if suffix != ".txt":
        opened = gzip.open if suffix == ".gz" else lzma.open
        with opened(folder / f"log.txt{suffix}", "wb") as file:
            file.write(log.read_bytes())
        log.unlink()
    return folder


def header(**values):
    return fields("@ run", lambda found: found.update(values))


def git_state(**values):
    return fields("@ run", lambda found: found["git"].update(values))


def resumed(pieces):
    nothing = dict(variables=[], paths=[], modules={})
    resume = dict(step=100, imports=nothing)
    pieces.insert(at(pieces, "step:100/", 1), [f"@ resume {json.dumps(resume)} #0\n"])


def versions(**values):
    return fields("@ run", lambda found: found["versions"].update(values))


def command(words):
    return fields("@ run", lambda found: found.update(command=f"{found['command']} {words}"))


# what is other than usual: options of `record`, and None where it stands, else what the line says
VARIATIONS = {
    "as usual": ({}, None),
    "gz": (dict(suffix=".gz"), None),
    "xz": (dict(suffix=".xz"), None),
    "resumed": (dict(edit=resumed), None),
    "torch 2.11": (dict(edit=versions(torch="2.11.0+cpu")), None),
    "python 3.13": (dict(edit=versions(python="3.13.1")), None),
    "another CPU": (dict(device="Apple M4"), None),
    "a slow machine": (dict(ms=20_000), None),
    "a fast one": (dict(ms=100), None),
    "eight threads": (dict(ms=20, edit=fields("@ run", lambda found: found["hardware"].update(
        threads=8))), None),
    "extra validations": (dict(words="--val-every 7"), None),
    "wandb": (dict(edit=command("--wandb")), None),
    "weights kept": (dict(edit=command("--save")), None),
    "data elsewhere": (dict(edit=command("--data-dir DIR")), None),
    "a dirty tree outside the sources": (dict(edit=git_state(changed=True)), None),
    "git status took too long": (dict(edit=git_state(changed=None)), None),
    "the clock set back": (dict(clock_step=-3600), None),
    "the clock set forward": (dict(clock_step=86_400), None),
    "a clock half an hour behind the commit's": (dict(hour=-24.5 + 900 / 3600), None),
    "settings of torch": (dict(edit=header(settings={"OMP_NUM_THREADS": "1"})), None),
    "a checkpoint": (dict(edit=lambda pieces: pieces.insert(
        at(pieces, "step:100/"), ['@ checkpoint {"seed": 0, "step": 99} #0\n'])), None),
    "losses above the target": (dict(ends={0: 1.39, 1: 1.40, 2: 1.41}), None),
    "AdamW": (dict(words="--recipe adamw", ends={0: 1.88, 1: 1.89, 2: 1.90}), None),
    **{name: (dict(words=f"--recipe {name}"), None) for name in RECIPES if name != "adamw"},
    "sprint": (dict(words="--track sprint", ms=60_000), "tracks.py has no sha256 of"),
    "the race": (dict(words="--track fineweb-124m", ms=60_000,
                      ends={0: 3.27, 1: 3.271, 2: 3.272}), "tracks.py has no sha256 of"),
    "an overridden recipe": (dict(words="--recipe.lr 0.02", name="aurora+lr=0.02"), "overridden"),
    "stopped early": (dict(words="--steps 40", name="aurora+steps=40"), "overridden"),
    "a custom track": (dict(words="--allow-custom --track.target 1.5"), "a custom track"),
    "a preset": (dict(words="--track 350m --steps 3", name="aurora+steps=3"), "a custom track"),
    "no clone": (dict(edit=header(git=None)), "names no commit"),
    "a commit that was squashed": (dict(edit=git_state(commit="ab" * 20)), "not squashed"),
    "seeds 1 to 3": (dict(edit=both(
        fields("@ run", lambda found: found.update(command=found["command"].replace("0 1 2", "1 2 3"),
                                                   seeds=[1, 2, 3])),
        lambda pieces: [_renumber(piece) for piece in pieces])), "0 to n - 1"),
    "a module from elsewhere": (dict(edit=fields("@ run", lambda found: found["imports"]["modules"].update(
        plugin="ab" * 32))), "plugin was loaded"),
}


def _renumber(piece):
    line = piece[0]
    for seed in (2, 1, 0):
        line = line.replace(f'"seed": {seed}', f'"seed": {seed + 1}x').replace(f" seed:{seed} ",
                                                                              f" seed:{seed + 1}x ")
        line = line.replace(f" seed:{seed} #", f" seed:{seed + 1}x #")
    piece[0] = line.replace('x,', ',').replace('x}', '}').replace("x #", " #").replace("x ", " ") \
        if line.startswith(("@ seed", "@ outcome", "@ diagnostics", "step:")) else piece[0]


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_honest_run_stands_or_says_why_it_is_on_no_board(tmp_path, name):
    options, why = VARIATIONS[name]
    folder = record(tmp_path, **options)
    if why is None or "custom" not in why and "overridden" not in why:
        challenged(folder)
    verdict, = verdicts([folder], History(clone.clone()))
    assert verdict.verifies, [str(failure) for failure in verdict.failures]
    assert verdict.why is None if why is None else why in verdict.why and "\n" not in verdict.why


def test_several_logs_machines_and_files_beside(tmp_path):
    folder = tmp_path / "2027-01-15_aurora"
    folder.mkdir()
    for i, device in enumerate(("one CPU", "another CPU", "a third")):
        seeds = {2 * i: 1.3 + 0.001 * i, 2 * i + 1: 1.302}
        words = f"--seeds {' '.join(map(str, seeds))}"
        make_log(folder / f"{i}.txt", words, ends=seeds, device=device, hour=i)
    (folder / "README.md").write_text("hello")
    (folder / "record.json").write_text('{"author": "A. B."}')
    verdict, = verdicts([challenged(folder)], History(clone.clone()))
    assert verdict.stands, verdict.why
    assert verdict.claim["n"] == 6 and verdict.claim["no_time"] == "mixed hardware"


def test_the_same_recipe_on_another_machine_stands_beside_the_first(tmp_path):
    ends = {seed: 1.3 + 0.001 * seed for seed in range(3)}
    first = record(tmp_path, ends=ends)
    (tmp_path / "other").mkdir()
    near = {seed: end + 4e-5 for seed, end in ends.items()}
    second = record(tmp_path / "other", device="B", ends=near, hour=1)
    found = verdicts([challenged(first), challenged(second)], History(clone.clone()))
    assert [verdict.stands for verdict in found] == [True, True], [verdict.why for verdict in found]


########################################
#            What is not known         #
########################################


def test_a_shallow_clone_says_that_history_is_missing_and_how_to_fetch_it(tmp_path):
    origin, shallow = clone.new_clone(tmp_path / "origin"), tmp_path / "shallow"
    (origin / "tracks.py").write_text((origin / "tracks.py").read_text() + "# later\n")
    clone.commit(origin, time=clone.MADE + 60)
    clone.git(tmp_path, "clone", "-q", "--depth", "1", f"file://{origin}", str(shallow))
    folder = record(tmp_path)
    verdict, = verdicts([challenged(folder)], History(shallow))
    assert verdict.outcome == "consistent" and "git fetch --unshallow" in verdict.why
    assert "not known" in verdict.why and all(lock.holds is not False for lock in verdict.locks)
    clone.git(shallow, "fetch", "-q", "--unshallow")
    assert verdicts([folder], History(shallow))[0].stands


def test_without_git_it_is_not_known(tmp_path, monkeypatch):
    folder = challenged(record(tmp_path))
    verdict, = verdicts([folder], History(tmp_path))
    assert verdict.outcome == "consistent" and "not known" in verdict.why and "clone" in verdict.why
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not known" in verdicts([folder], History(clone.clone()))[0].why


def test_without_torch_the_name_is_not_checked_and_never_passed(tmp_path, monkeypatch):
    folder = challenged(record(tmp_path))
    monkeypatch.setattr("speedrun.verify.names.can_ask", lambda: False)
    verdict, = verdicts([folder], History(clone.clone()))
    assert verdict.outcome == "consistent" and "name: not known: not checked here: torch" in verdict.why


def test_there_are_forty():
    assert len(VARIATIONS) + 5 >= 40
