"""A command line of train_gpt.py: read, written, logged, and what of it may change a loss."""
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_gpt
from speedrun.log import command
from speedrun.log.command import Command, Flag

ALL = ("--track laptop --recipe muon --seeds 3 5 --steps 9 --log-dir l --data-dir d --val-every 2 "
       "--device cpu --checkpoint-every 3 --fast --save --wandb --allow-custom --track.tail=0 --json "
       "--recipe.lr 0.1")

########################################
#                 Read                 #
########################################


def test_what_a_command_asks_for():
    found = Command.read("train_gpt.py --recipe muon --recipe.lr 0.1 --seeds 3 5 --track.tail=0 --steps 9 "
                         "--fast --recipe.aux.head_lr -1 --log-dir DIR")
    assert found.wrong is None
    assert found.overrides == (("recipe", "lr", "0.1"), ("track", "tail", "0"),
                               ("recipe", "aux.head_lr", "-1"), ("recipe", "steps", "9"))
    assert set(found.given) == {"recipe", "seeds", "steps", "fast", "log_dir"}
    args = found.args
    assert (args.recipe, args.seeds, args.val_every) == ("muon", [3, 5], None) and args.fast and not args.save
    empty = Command.read("train_gpt.py")
    assert (empty.args.recipe, empty.args.seeds, empty.args.track, empty.given) == ("aurora", [0], None, {})


@pytest.mark.parametrize("words", ["--device cpu", ALL, "--device=cpu --recipe muon --recipe=adamw --list",
                                   "--device cpu --seeds 1 2 --seeds 7 --recipe.steps=4 --steps 3"])
def test_the_trainer_reads_the_same(words):
    words = words.split()
    plan, found = train_gpt.parse(words), Command(words)
    assert vars(plan.args) == {**vars(found.args), "argv": words} and found.wrong is None
    changed = "".join(f"+{field}={text}" for kind, field, text in found.overrides if kind == "recipe")
    assert plan.recipe.name == found.args.recipe + changed


@pytest.mark.parametrize("text, wrong", [
    ("", "does not start train_gpt.py"), ("rm -r x", "does not start train_gpt.py"),
    ('train_gpt.py "--seeds', "No closing quotation"), ("train_gpt.py --seeds x", "invalid int value"),
    ("train_gpt.py --device tpu", "invalid choice"), ("train_gpt.py --recipe", "expected one argument"),
    ("train_gpt.py --nonsense", "unknown argument '--nonsense'"),
    ("train_gpt.py -x 1", "unknown argument '-x'"), ("train_gpt.py --recipes.lr=1", "--recipes.lr"),
    ("train_gpt.py --recipe.lr", "--recipe.lr needs a value")])
def test_what_is_no_command_of_the_trainer(text, wrong):
    found = Command.read(text)
    assert wrong in found.wrong and found.args.seeds == [0] and found.plus(seeds=[1]).wrong


########################################
#                Written               #
########################################


def test_a_log_holds_no_folder_and_else_every_word():
    argv = ["--track.data", "my data", "--log-dir", "/home/me/x", "--data-dir=/home/me/y", "--seeds", "0"]
    text = Command(argv).logged()
    assert text == "train_gpt.py --track.data 'my data' --log-dir DIR --data-dir=DIR --seeds 0"
    assert Command.read(text).without_folders().words == ("--track.data", "my data", "--seeds", "0")
    assert Command(["--log-dir"]).logged() == "train_gpt.py --log-dir DIR"


def test_flags_are_added_after_the_words():
    found = Command(["--recipe", "muon", "--seeds", "1"]).plus(
        "--save", seeds=[4, 5], val_every=None, fast=False, wandb=True, log_dir="a b", recipe="-x",
        overrides=[("recipe", "lr", -0.5)])
    assert found.words == ("--recipe", "muon", "--seeds", "1", "--save", "--wandb", "--log-dir", "a b",
                           "--recipe=-x", "--recipe.lr=-0.5", "--seeds", "4", "5")
    assert found.args.seeds == [4, 5] and found.args.recipe == "-x" and found.wrong is None
    with pytest.raises(KeyError):
        Command().plus(nonsense=1)


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(recipe=VALUES, text=VALUES, seeds=st.lists(st.integers(), min_size=1))
def test_what_is_written_is_read_again(recipe, text, seeds):
    written = Command().plus(recipe=recipe, seeds=seeds, overrides=[("recipe", "x", text)])
    found = Command.read(written.logged())
    assert (found.args.recipe, found.args.seeds, found.overrides) == (recipe, seeds, (("recipe", "x", text),))
    assert found.wrong is None and found.words == written.words


########################################
#          What changes losses         #
########################################


def test_what_may_change_a_loss_is_kept_and_nothing_else():
    found = Command(ALL.split()).training(seeds=[5], device=None, data_dir="here")
    assert shlex.join(found.words) == (
        "--track laptop --recipe muon --val-every 2 --fast --allow-custom --data-dir here --track.tail=0 "
        "--recipe.lr=0.1 --recipe.steps=9 --seeds 5")
    assert found.overrides == Command(ALL.split()).overrides


def test_no_value_becomes_a_flag():
    found = Command.read("train_gpt.py --recipe=--json --recipe.lr=--wandb rm '; rm'").training()
    assert found.words == ("--recipe=--json", "--recipe.lr=--wandb") and not found.args.json


def test_flags_that_no_header_holds_may_not_change_within_a_run():
    begun = Command("--recipe muon --val-every 5 --save".split())
    assert begun.differs(begun.plus(recipe="aurora", seeds=[7], device="cpu", steps=3, val_every=5)) is None
    assert begun.differs(begun.plus(val_every=4)) == "--val-every"
    assert begun.differs(begun.plus(fast=True)) == "--fast"


def test_a_flag_is_declared_once(monkeypatch):
    flag = Flag("--made-up", "of a test", loss=True, options=dict(type=int))
    monkeypatch.setattr(command, "FLAGS", (*command.FLAGS, flag))
    words = ["--device", "cpu", "--made-up", "3"]
    assert train_gpt.parse(words).args.made_up == 3
    found = Command.read(Command(words).logged())
    assert found.training(device=None).words == ("--made-up", "3")
    assert found.differs(found.plus(made_up=4)) == "--made-up" and Command(words[:2]).args.made_up is None
