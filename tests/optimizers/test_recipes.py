"""Recipes: their constants, how one is made of another, and the optimizers of a model by one."""
from dataclasses import fields

import pytest
import torch
from torch import nn

from optimizers import RECIPES, Decay, Nesterov, Polar, build_optimizers, derive, resolve
from optimizers.recipes import add
from speedrun import ROOT
from speedrun.log.format import without_note
from speedrun.log.reader import read_log
from tracks import PRESETS, TRACKS
from train_gpt import GPT

RECORDS = sorted((ROOT / "records/laptop").glob("*/*.txt.xz"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_a_records_recipe_is_still_what_its_name_says(path):
    recipe = read_log(path).header["recipe"]
    assert without_note(resolve(recipe["name"], "laptop").resolved()) == without_note(recipe)


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


# ---------------------------------------------------------------- a model's optimizers


@pytest.mark.parametrize("track", ["laptop", "350m"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_parameter_has_one_optimizer_and_its_role(name, track):
    with torch.device("meta"):
        model = GPT({**TRACKS, **PRESETS}[track].model)
    recipe = resolve(name, track)
    optimizers = build_optimizers(model, recipe)
    owned = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))
    lrs = {id(p): g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert lrs[id(model.embed.weight)] == recipe.aux.embed_lr
    assert lrs[id(model.proj.weight)] == recipe.aux.head_lr
    assert lrs[id(model.norm1.gains)] == recipe.aux.vector_lr
    assert lrs[id(model.blocks[0].attn.proj.weight)] == recipe.lr
    if name == "aurora":
        balance = {id(p): g["balance"] for g in optimizers[1].param_groups for p in g["params"]}
        mlp = model.blocks[0].mlp
        tall = [mlp.fc] if track == "laptop" else [mlp.gate, mlp.up]
        assert [balance[id(m.weight)] for m in tall] == ["rows"] * len(tall)
        assert balance[id(model.blocks[0].attn.q.weight)] is None


def test_the_published_constants():
    muon, aurora, adamw = (RECIPES[name] for name in ("muon", "aurora", "adamw"))
    assert (muon.lr, muon.weight_decay, muon.steps) == (0.025, 0.05, 3250)
    assert (muon.cooldown_frac, muon.momentum) == (0.7, 0.95)
    assert (aurora.lr, aurora.weight_decay, aurora.steps) == (0.035, 0.025, 3250)
    for aux in (muon.aux, aurora.aux):
        assert (aux.embed_lr, aux.head_lr, aux.vector_lr, aux.weight_decay) == (0.7, 0.004, 0.015, 0.001)
        assert (aux.beta1, aux.beta2, aux.eps) == (0.8, 0.95, 1e-10)
    assert (adamw.lr, adamw.weight_decay, adamw.steps, adamw.warmup_steps) == (0.0015, 0.1, 5625, 250)
    assert (adamw.matrices.beta1, adamw.matrices.beta2, adamw.matrices.eps) == (0.9, 0.95, 1e-10)
    aux = adamw.aux
    assert (aux.embed_lr, aux.head_lr, aux.vector_lr, aux.weight_decay) == (0.3, 1 / 320, 0.01, 0)


def test_a_model_with_other_names_is_refused():
    with pytest.raises(ValueError, match="no role for weight"):
        build_optimizers(nn.Linear(3, 4), RECIPES["muon"])


@pytest.mark.parametrize("wrap", [torch.compile, lambda model: nn.ModuleDict({"module": model})])
def test_a_wrapped_model_has_the_roles_of_its_parameters(wrap):
    model = GPT(TRACKS["laptop"].model)
    plain, wrapped = (build_optimizers(m, RECIPES["aurora"]) for m in (model, wrap(model)))
    for a, b in zip(plain, wrapped, strict=True):
        assert [g["params"] for g in a.param_groups] == [g["params"] for g in b.param_groups]
