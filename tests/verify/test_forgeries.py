"""Forgeries through the public writer and by new hashes: each is caught by its lock or rule, and the honest
record that it is made from stands."""
import json
import re
import shutil
from pathlib import Path

import pytest

from speedrun import ROOT
from speedrun.verify.history import History
from speedrun.verify.verdict import verdicts
from tests.support import clone
from tests.support.edits import at, both, drop, fields, in_source, pattern, swap
from tests.support.made_logs import challenged, make_log, parts, rechain

pytestmark = pytest.mark.process  # the lock of the name runs optimizers/ by themselves

DAY = "2027-01-15"
SEEDS = "--seeds 0 1 2 3 4"
UNKNOWN = "1234567890" * 4


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Folder of records that stand: muon's, and the text of an aurora that is not among them."""
    top = tmp_path_factory.mktemp("honest")
    for recipe in ("muon", "aurora", "normuon"):
        folder = top / f"{DAY}_{recipe}"
        folder.mkdir()
        ends = {seed: dict(muon=1.35, aurora=1.31, normuon=1.30)[recipe] + 0.001 * seed for seed in range(5)}
        make_log(folder / "log.txt", f"--recipe {recipe} {SEEDS}", ends=ends)
        challenged(folder)
    return top


@pytest.fixture
def judge(tmp_path, honest):
    """judge(edit, **options) -> the verdict on honest aurora's folder after an edit of its log's pieces and a
    new chain of hashes, challenged by someone who trains honestly."""
    def run(edit=None, recipe="aurora", digests=False, chain=True, truth=True, name=None, day=DAY, after=None,
            beside=(), history=None, path=None):
        folder = tmp_path / f"{day}_{name or recipe}"
        folder.mkdir()
        log = folder / "log.txt"
        pieces = parts((path or honest / f"{DAY}_{recipe}/log.txt").read_text())
        if edit:
            edit(pieces)
        log.write_text(rechain(pieces, digests=digests) if chain else "".join(map("".join, pieces)))
        if truth:
            try:
                challenged(folder, path.parent if path else honest / f"{DAY}_{recipe}")
            except Exception as error:  # what does not verify is not challenged
                assert type(error).__name__ == "Refusal", error
        if after:
            after(folder)
        found = verdicts([*beside, folder], history or History(clone.clone()))
        return found[-1]
    return run


def caught(verdict, by: str) -> None:
    """The verdict does not let it stand, and says so by that rule or lock."""
    assert not verdict.stands
    broken = {failure.rule for failure in verdict.failures}
    broken |= {lock.name for lock in verdict.locks if lock.holds is not True}
    assert by in broken, (broken, verdict.why)


def test_the_honest_records_stand(honest):
    found = verdicts([honest], History(clone.clone()))
    assert len(found) == 3 and all(verdict.stands for verdict in found), [str(v.why) for v in found]
    assert all(lock.holds is True and lock.how for verdict in found for lock in verdict.locks)
    assert {lock.name for lock in found[0].locks} == {"harness", "name", "challenge", "plausibility", "pins",
                                                      "agreement"}


########################################
#             By an edit               #
########################################


def lower_losses(by: float, first: float | None = None):
    """Every loss after step 0 is lower, and the outcomes and first crossings follow."""
    def edit(pieces):
        reached, last = None, None
        for piece in pieces:
            line = piece[0]
            if line.startswith('@ seed '):
                reached = None
            if match := re.match(r"step:(\d+)/\d+ val_loss:(\S+) train_time:(\S+)s", line):
                step, loss = int(match[1]), float(match[2]) - by * (match[1] != "0")
                loss = first if first is not None and step == 0 else loss
                last = f"{loss:.5f}"
                piece[0] = line.replace(f"val_loss:{match[2]}", f"val_loss:{last}")
                if reached is None and float(last) <= 1.38:
                    reached = dict(step=step, seconds=float(match[3]))
            if line.startswith('@ outcome '):
                data = json.loads(line[10:].rsplit(" #", 1)[0])
                data.update(val_loss=float(last), reached=reached)
                piece[0] = f"@ outcome {json.dumps(data)} #0\n"
    return edit


def faster(factor: float):
    """The training clock, shortened; rates follow."""
    def edit(pieces):
        seconds, reached = None, None
        for piece in pieces:
            line = piece[0]
            if line.startswith("@ seed "):
                reached = None
            if match := re.match(r"step:(\d+)/(\d+) val_loss:(\S+) train_time:(\S+)s", line):
                step, seconds = int(match[1]), round(float(match[4]) * factor, 3)
                average = 1000 * seconds / step if step else 0.0
                piece[0] = re.sub(r"train_time:\S+s step_avg:\S+ms",
                                  f"train_time:{seconds:.3f}s step_avg:{average:.2f}ms", line)
                if reached is None and float(match[3]) <= 1.38:
                    reached = dict(step=step, seconds=seconds)
            if line.startswith("@ outcome "):
                data = json.loads(line[10:].rsplit(" #", 1)[0])
                data.update(train_time=seconds, tokens_per_second=round(300 * 4096 / seconds),
                            reached=reached)
                piece[0] = f"@ outcome {json.dumps(data)} #0\n"
    return edit


def later(seconds: float):
    return lambda pieces: [shift(piece, seconds) for piece in pieces]


def shift(piece: list, seconds: float) -> None:
    """A validation after step 0, or an outcome, so much later on the training clock."""
    def moved(match):
        step, time = int(match[1]), float(match[3]) + seconds
        return f"{match[0][:match.start(3) - match.start(0)]}{time:.3f}s step_avg:{1000 * time / step:.2f}ms"

    piece[0] = re.sub(r"step:([1-9]\d*)/(\d+ val_loss:\S+) train_time:(\S+)s step_avg:\S+ms", moved, piece[0])
    if piece[0].startswith("@ outcome "):
        data = json.loads(piece[0][10:].rsplit(" #", 1)[0])
        data["train_time"] = round(data["train_time"] + seconds, 3)
        data["reached"]["seconds"] = round(data["reached"]["seconds"] + seconds, 3)
        piece[0] = f"@ outcome {json.dumps(data)} #0\n"


def header(**values):
    return fields("@ run", lambda found: found.update(values))


def track(**values):
    return fields("@ run", lambda found: found["track"].update(values))


def git_state(**values):
    return fields("@ run", lambda found: found.update(git=dict(found["git"], **values)))


def diagnostics(change):
    def edit(pieces):
        for piece in pieces:
            if piece[0].startswith("@ diagnostics "):
                data = json.loads(piece[0][14:].rsplit(" #", 1)[0])
                change(data)
                piece[0] = f"@ diagnostics {json.dumps(data)} #0\n"
    return edit


def no_diagnostics(pieces):
    pieces[:] = [piece for piece in pieces if not piece[0].startswith("@ diagnostics ")]


def every_kind(data: dict, **values) -> None:
    for kind, found in data.items():
        if kind.startswith("blocks."):
            found.update({name: [value] * 4 for name, value in values.items()})


def seeds_dropped(*dropped):
    """A log of five seeds from which some are gone, the command and the header too."""
    def edit(pieces):
        for seed in dropped:
            start, end = (at(pieces, f'@ {kind} {{"seed": {seed}') for kind in ("seed", "outcome"))
            del pieces[start:end + 1]
        kept = [seed for seed in range(5) if seed not in dropped]
        fields("@ run", lambda found: found.update(
            seeds=kept, command=found["command"].replace("0 1 2 3 4", " ".join(map(str, kept)))))(pieces)
    return edit


HARNESS = in_source("train_gpt.py", "0.12", "0.13")
COMMENT = in_source("optimizers/polar.py", "import torch\n", "import torch  # mine\n")
LR = fields("@ run", lambda found: found["recipe"].update(lr=0.031))
# number of the referee's list, what is done, the rule or lock that catches it, options of `judge`
EDITS = [
    ("1 a loss, the chain kept", pattern("step:100/", r"val_loss:1", "val_loss:0"), "log", dict(chain=False)),
    ("2 every loss lower", lower_losses(0.05), "challenge", {}),
    ("2b a first loss of 2.0", lower_losses(0.05, first=2.0), "plausibility", {}),
    ("2c no diagnostics", no_diagnostics, "plausibility", {}),
    ("3 the two worst seeds dropped", seeds_dropped(3, 4), None, {}),
    ("3b the two seeds in between dropped", seeds_dropped(1, 2), "pins", {}),
    ("4 a tenth of the time", faster(0.1), "plausibility", {}),
    ("5 another target", track(target=1.5), "track", dict(digests=True)),
    ("6 fewer validation tokens", track(val_tokens=4096), "track", dict(digests=True)),
    ("7 another validation shard",
     fields("@ run", lambda found: found["data"]["val"][0].update(sha256="ab" * 32)), "data",
     dict(digests=True)),
    ("8 someone's record, a little later", later(0.001), "agreement", dict(beside="aurora")),
    ("8b an exact copy", None, "agreement", dict(beside="aurora")),
    ("10 a comment in optimizers/", both(COMMENT, git_state(changed=True)), "name", dict(digests=True)),
    ("11 a source altered, its commit named", HARNESS, "harness", dict(digests=True)),
    ("11b a source altered, an unknown commit", both(HARNESS, git_state(commit=UNKNOWN)), "harness",
     dict(digests=True)),
    ("11c a source altered, no commit", both(HARNESS, header(git=None)), "harness", dict(digests=True)),
    ("11d a source altered, said to be changed", both(HARNESS, git_state(changed=True)), "harness",
     dict(digests=True)),
    ("16 backdated", both(swap("@ log", "2027", "2019"), swap("@ end", "2027", "2019"),
                          swap("@ run", '"started": "2027', '"started": "2019')), "pins", {}),
    ("18 another dtype", fields("@ run", lambda found: found["track"]["model"].update(dtype="bfloat16")),
     "track", dict(digests=True)),
    ("19 a source altered, hashes kept", HARNESS, "log", dict(chain=False)),
    ("22 other tokens a step", track(tokens_per_step=8192), "track", dict(digests=True)),
    ("23 another lr under the name", LR, "recipe", dict(digests=True)),
    ("25 a hook before the code", fields("@ run", lambda found: found["imports"]["modules"].update(
        sitecustomize="ab" * 32)), "pins", {}),
    ("own: a module from elsewhere", fields("@ run", lambda found: found["imports"]["modules"].update(
        stranger="ab" * 32)), "pins", {}),
    ("own: PYTHONPATH", fields("@ run", lambda found: found["imports"].update(
        variables=["PYTHONPATH"])),
     "pins", {}),
    ("own: silent about imports", fields("@ run", lambda found: found.pop("imports")), "pins", {}),
    ("own: a module of the harness left out", drop('@ source {"path": "speedrun/training/guard.py"'),
     "harness", dict(digests=True)),
    ("own: a commit of another time", git_state(commit=UNKNOWN), "harness", {}),
    ("own: updates of zero", diagnostics(lambda data: every_kind(data, update_ratio=0.0, orthogonality=1.0)),
     "plausibility", {}),
    ("own: AdamW's diagnostics", diagnostics(lambda data: [
        data.pop(kind) for kind in list(data) if kind.startswith("blocks.")]), "plausibility", {}),
    ("own: a folder dated before the run", None, "pins", dict(day="2026-12-24")),
    ("own: AdamW with a chain's diagnostics", None, "plausibility", dict(own="aurora")),
]


@pytest.mark.parametrize("case", EDITS, ids=lambda case: case[0])
def test_each_edited_log_is_caught(judge, honest, tmp_path, case):
    _, edit, by, options = case
    if options.get("own"):
        path = tmp_path / "own/log.txt"
        path.parent.mkdir()
        make_log(path, f"--recipe adamw {SEEDS}", ends=dict.fromkeys(range(5), 1.9))
        chain = parts((honest / f"{DAY}_aurora/log.txt").read_text())
        found = chain[at(chain, "@ diagnostics")]
        verdict = judge(lambda pieces: [piece.__setitem__(0, found[0].replace(
            '"seed": 0', f'"seed": {json.loads(piece[0][14:].rsplit(" #", 1)[0])["seed"]}'))
            for piece in pieces if piece[0].startswith("@ diagnostics")], recipe="adamw", path=path)
        return caught(verdict, by)
    if by is None:  # the three best of five and no sign that there were more: that is what the plan is for
        assert judge(edit, **options).locks[4].holds is True
        return None
    if beside := options.pop("beside", None):
        options = dict(options, beside=[honest / f"{DAY}_{beside}"])
    return caught(judge(edit, **options), by)


########################################
#        By other files and runs       #
########################################


def test_9_a_run_on_gpus_that_never_was_is_no_record_before_its_shards_are_pinned(tmp_path):
    folder = tmp_path / f"{DAY}_aurora"
    folder.mkdir()
    make_log(folder / "log.txt", "--track fineweb-124m --seeds 0 1 2 3 4 5 6 7", ms=60_000)
    verdict, = verdicts([challenged(folder)], History(clone.clone()))
    caught(verdict, "pins")
    assert verdict.verifies and "sha256sum data/fineweb10B" in verdict.why


def test_10b_one_recipes_run_under_another_name(judge):
    def edit(pieces):
        text = "".join(pieces[at(pieces, "@ run")])
        pieces[at(pieces, "@ run")][:] = [text.replace("--recipe normuon", "--recipe muon").replace(
            '"name": "normuon"', '"name": "muon"')]
    caught(judge(edit, recipe="normuon", digests=True, name="muon"), "recipe")


@pytest.mark.parametrize("seeds", ["3 17 22 31 40", "1 2 3 4 5", "0 1 2 3 5"])
def test_12_seeds_of_ones_choice(tmp_path, seeds):
    folder = tmp_path / f"{DAY}_aurora"
    folder.mkdir()
    make_log(folder / "log.txt", f"--seeds {seeds}")
    caught(verdicts([challenged(folder)], History(clone.clone()))[0], "pins")


@pytest.mark.parametrize("seeds, by", [((0, 1, 3), "seeds"), ((3, 4, 5), "pins")])
def test_13_14_logs_of_a_seed_each_with_one_withheld_or_from_the_best_window(tmp_path, seeds, by):
    folder = tmp_path / f"{DAY}_aurora"
    folder.mkdir()
    for seed in seeds:
        make_log(folder / f"{seed}.txt", f"--seeds {seed}", hour=seed, ends={seed: 1.3 + 0.001 * seed})
    caught(verdicts([folder], History(clone.clone()))[0], by)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """A clone in which a branch of a stranger's was merged: main, and a commit that alters the harness."""
    folder = clone.new_clone(tmp_path_factory.mktemp("submitted") / "clone")
    clone.git(folder, "checkout", "-q", "-b", "theirs")
    trainer = folder / "train_gpt.py"
    trainer.write_text(trainer.read_text().replace("0.12", "0.13", 1))
    return folder, clone.commit(folder, time=clone.MADE + 60)


def test_24_a_harness_of_ones_own_in_a_commit_of_ones_own(judge, submitted):
    folder, commit = submitted
    edit = both(HARNESS, git_state(commit=commit))
    for day, history in ((DAY, History(clone.clone())), ("2027-01-16", History(folder, base="main"))):
        caught(judge(edit, digests=True, truth=False, history=history, day=day), "harness")


def test_a_submission_with_optimizers_of_its_own_keeps_the_harness_lock(judge, submitted):
    folder, _ = submitted
    clone.git(folder, "checkout", "-q", "-b", "optimizer", "main")
    polar = folder / "optimizers/polar.py"
    polar.write_text(polar.read_text().replace("import torch\n", "import torch  # mine\n", 1))
    commit = clone.commit(folder, time=clone.MADE + 60)
    edit, options = both(COMMENT, git_state(commit=commit)), dict(digests=True, truth=False)
    verdict = judge(edit, history=History(folder, base="main"), **options)
    assert [lock.holds for lock in verdict.locks] == [True, True, None, True, True, True], verdict.why
    # and there the lock of the name is what holds another learning rate: the checkout's optimizers are others
    caught(judge(both(edit, LR), history=History(folder, base="main"), day="2027-01-16", **options), "name")
    clone.git(folder, "checkout", "-q", "theirs")


def test_25b_a_hook_that_hides_itself_is_found_by_the_challenge(judge):
    caught(judge(lower_losses(0.05)), "challenge")


def test_a_recipe_tuned_again_under_its_name_stands_not_beside_the_old_one(honest, tmp_path):
    """Committed, so that its own name lock holds."""
    folder, record = clone.new_clone(tmp_path / "clone"), tmp_path / "2027-01-16_aurora"
    recipes = folder / "optimizers/recipes.py"
    recipes.write_text(recipes.read_text().replace("lr=0.028,", "lr=0.031,"))
    commit = clone.commit(folder, time=clone.MADE + 60)
    record.mkdir()
    pieces = parts((honest / f"{DAY}_aurora/log.txt").read_text())
    source = pieces[at(pieces, '@ source {"path": "optimizers/recipes.py"')]
    source[1:] = [line.replace("lr=0.028,", "lr=0.031,") for line in source[1:]]
    fields("@ run", lambda found: found["recipe"].update(lr=0.031))(pieces)
    git_state(commit=commit)(pieces)
    fields("@ run", lambda found: found.update(started="2027-01-15T08:00:01Z"))(pieces)
    (record / "log.txt").write_text(rechain(pieces, digests=True))
    first, second = verdicts([honest / f"{DAY}_aurora", record], History(folder))
    assert {lock.name: lock.holds for lock in second.locks}["name"] is True, second.why
    caught(second, "agreement")
    assert "another recipe" in next(lock.how for lock in second.locks if lock.name == "agreement")


def test_equal_recipe_and_seed_with_other_losses(judge, honest):
    """A polar altered in a commit, weights of a longer run: whatever made the losses lower."""
    verdict = judge(lower_losses(0.004), truth=False, beside=[honest / f"{DAY}_aurora"], day="2027-01-16")
    caught(verdict, "agreement")


def other_logs(found):
    found.update(last_hash="0" * 16)


def other_seed(found):
    found.update(seed=(found["seed"] + 1) % 5)


def unknown_harness(found):
    found.update(harness=UNKNOWN)


def no_losses(found):
    found.update(points=[])


def disagreeing(found):
    found.update(agrees=True, points=[dict(point, loss=point["loss"] + 0.001) for point in found["points"]])


def step_0_alone(found):
    found.update(points=found["points"][:1])


@pytest.mark.parametrize("change", [other_logs, other_seed, unknown_harness, no_losses, disagreeing,
                                    step_0_alone, dict.clear], ids=lambda change: change.__name__)
def test_a_challenge_that_is_of_something_else_or_says_nothing(judge, change):
    def after(folder):
        found = json.loads((folder / "challenge.json").read_text())
        change(found)
        (folder / "challenge.json").write_text(json.dumps(found))
    caught(judge(after=after), "challenge")


def test_a_challenge_of_another_record_is_none_of_this(judge, honest):
    verdict = judge(after=lambda folder: shutil.copy(honest / f"{DAY}_muon/challenge.json", folder))
    caught(verdict, "challenge")


def test_sources_of_two_commits_are_no_commits_harness(judge, tmp_path):
    folder = clone.new_clone(tmp_path / "clone")
    trainer = folder / "train_gpt.py"
    trainer.write_text(trainer.read_text().replace("0.12", "0.13", 1))
    commit = clone.commit(folder, time=clone.MADE + 60)  # the log's trainer is the commit before's
    caught(judge(git_state(commit=commit), truth=False, history=History(folder)), "harness")


def test_there_are_enough_forgeries():
    numbers = {name.split()[0] for name, *_ in EDITS}
    assert len(EDITS) >= 30 and len(numbers - {"own:"}) >= 20 and Path(ROOT).is_dir()
