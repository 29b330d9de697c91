"""Recipes: their constants, and how one is made of another."""
from dataclasses import fields

import pytest

from optimizers import RECIPES, Decay, Nesterov, Polar, derive, resolve
from optimizers.recipes import add
from speedrun import ROOT
from speedrun.log.reader import read_log

RECORDS = sorted((ROOT / "records/laptop").glob("*/*.txt.xz"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_records_recipe_is_still_what_its_name_says(path):
    recipe = read_log(path).header["recipe"]
    assert resolve(recipe["name"], "laptop").resolved() == recipe


def test_records_of_five_recipes_are_compared():
    assert {path.parent.name.split("_")[1] for path in RECORDS} >= {
        "adamw", "muon", "normuon", "unormuon", "aurora"}


def test_what_is_not_named_is_kept_also_what_is_tuned_for_a_track():
    chain = (Nesterov(), Polar("quintic5"), Decay())
    odd = derive("muon", name="odd", matrices=chain, momentum=0.9, laptop={"lr": 0.004, "aux.embed_lr": 0.5})
    muon, changed = RECIPES["muon"], {"name", "note", "matrices", "momentum", "on"}
    assert (odd.name, odd.note, odd.matrices, odd.momentum) == ("odd", "muon with other fields", chain, 0.9)
    for field in {field.name for field in fields(muon)} - changed:
        assert getattr(odd, field) == getattr(muon, field), field
    assert odd.on["sprint"] == muon.on["sprint"]
    here, tuned = odd.for_track("laptop"), muon.for_track("laptop")
    assert (here.lr, here.aux.embed_lr) == (0.004, 0.5)
    assert (here.weight_decay, here.steps, here.aux.head_lr) == (
        tuned.weight_decay, tuned.steps, tuned.aux.head_lr)
    assert tuned.weight_decay != muon.weight_decay and muon == RECIPES["muon"] and "odd" not in RECIPES
    assert muon.on["laptop"]["lr"] == 0.02  # a dict of its own


@pytest.mark.parametrize("changes, says", [
    (dict(learning_rate=1.0), "muon has no field or track 'learning_rate'; known: .*lr, .*laptop"),
    (dict(lapdog=dict(lr=1.0)), "no field or track 'lapdog'"),
    (dict(on={}), "no field or track 'on'"),
    (dict(laptop=dict(lrr=1.0)), r"recipe odd, on\['laptop'\]: no field 'lrr'")])
def test_a_field_or_track_that_is_not_there_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        derive("muon", name="odd", **changes)


def test_a_recipe_is_added_once_under_its_name(monkeypatch):
    monkeypatch.setattr("optimizers.recipes.RECIPES", dict(RECIPES))
    odd = add(derive("aurora", name="odd", lr=0.5))
    assert resolve("odd", "fineweb-124m") is odd and resolve("odd", "laptop").lr == 0.028
    with pytest.raises(ValueError, match="a recipe 'odd' already"):
        add(derive("muon", name="odd"))
