"""Named recipes: every constant of a run in one place, with where it comes from.

RECIPES[name] is the recipe of the 124M tracks. `.on[track]` holds the fields that differ on another track,
by their dotted names; `resolve(name, track)` applies them. A new recipe is added here, usually as one that
is known with other fields: add(derive("muon", name=..., matrices=...)).
"""
from dataclasses import fields, replace

from .aurora import BalancedPolar
from .contra import Contra
from .decay import Decay
from .equilibrate import Equilibrate
from .floor import UpdateFloor
from .hyperball import Hyperball
from .momentum import Nesterov
from .muon import Polar
from .normuon import RowNorm, RowVariance
from .recipe import AdamW, Auxiliary, Balance, Init, Recipe
from .riemannian import RiemannianPolar
from .scale import AspectScale

RECIPES: dict[str, Recipe] = {}


def add(recipe: Recipe) -> Recipe:
    """Make `recipe` known by its name. ValueError where another one has that name."""
    if recipe.name in RECIPES:
        raise ValueError(f"there is a recipe {recipe.name!r} already; give this one another name")
    RECIPES[recipe.name] = recipe
    return recipe


def derive(base: str, *, name: str, note: str | None = None, **changes) -> Recipe:
    """The recipe `base` with other fields, under another name:

        derive("muon", name="softsign", matrices=(Nesterov(), SoftSign(), Decay()), laptop=dict(lr=0.004))

    changes: fields of Recipe; and for each track, a dict of the fields to be changed there, by dotted names.
    All that is not named is kept, also what `base` has tuned for a track. note: where the constants come
    from. Raises KeyError for an unknown `base`, ValueError for a field or a track that it does not have.
    """
    recipe = RECIPES[base]
    known = [f.name for f in fields(Recipe) if f.name not in ("name", "note", "on")]
    for word in changes:
        if word not in known and word not in recipe.on:
            raise ValueError(f"derive: {base} has no field or track {word!r}; known: "
                             f"{', '.join([*known, *recipe.on])}")
    on = {track: {**there, **changes.pop(track, {})} for track, there in recipe.on.items()}
    derived = replace(recipe, name=name, note=note or f"{base} with other fields", on=on, **changes)
    for track in on:
        derived.for_track(track)  # raises for a field that is not there
    return derived


def resolve(name: str, track: str) -> Recipe:
    """The named recipe with what it changes on `track`.

    Raises KeyError for an unknown name, ValueError where the recipe's `on` names a field that is not there.
    """
    return RECIPES[name].for_track(track)


# Auxiliary AdamW of modded-nanogpt's track 3: rows before #36, and the tuned ones of #36.
AUX = Auxiliary(embed_lr=0.3, head_lr=1 / 320, vector_lr=0.01, weight_decay=0.0)
AUX_36 = Auxiliary(embed_lr=0.7, head_lr=0.004, vector_lr=0.015, weight_decay=0.001)

SPRINT = {"steps": 1525, "schedule_steps": 1525}  # one pass over the first shard
LAPTOP = {"steps": 300, "schedule_steps": 300}

# What differs on `laptop` beside the steps is tuned there, by scripts/sweep.py: records/tuning/.

add(Recipe(
    name="adamw",
    note="modded-nanogpt track 3, row 2 (5,625 steps there, one seed); not yet run here on 8 GPUs",
    steps=5625, schedule_steps=5625, cooldown_frac=0.7, warmup_steps=250,
    lr=0.0015, weight_decay=0.1, momentum=0.0,
    matrices=AdamW(beta1=0.9, beta2=0.95, eps=1e-10), balance=Balance(), aux=AUX,
    on={"sprint": SPRINT,
        # the other recipes' auxiliary rates, so that there only the hidden matrices' optimizer differs
        "laptop": {**LAPTOP, "aux": AUX_36, "warmup_steps": 13, "lr": 0.002, "weight_decay": 0.1}}))

add(Recipe(
    name="muon",
    note="modded-nanogpt track 3, row 36 (3,250 steps there, n=10); not yet run here on 8 GPUs",
    steps=3250, schedule_steps=3250, cooldown_frac=0.7, warmup_steps=0,
    lr=0.025, weight_decay=0.05, momentum=0.95,
    matrices=(Nesterov(), Polar("quintic12"), AspectScale(), Decay()), balance=Balance(), aux=AUX_36,
    on={"sprint": SPRINT, "laptop": {**LAPTOP, "lr": 0.02, "weight_decay": 0.025}}))

add(derive(
    "muon", name="aurora", note="row 36's auxiliary settings; lr and weight decay of rows 10 and 12; the "
    "paper's balance (arXiv 2606.27715: rows of tall matrices); not yet run on 8 GPUs",
    lr=0.035, weight_decay=0.025,
    matrices=(Nesterov(), BalancedPolar(iterations=2, beta=0.5), AspectScale(), Decay()),
    balance=Balance(up="rows"), laptop=dict(lr=0.028, weight_decay=0.05)))

add(derive(
    "aurora", name="normuon", note="aurora's constants with NorMuon's second moment per row after a plain "
    "polar in place of its map (beta2 of track 3, row 10); not yet run on 8 GPUs",
    matrices=(Nesterov(), Polar("quintic12"), RowVariance(0.95), AspectScale(), Decay()),
    balance=Balance()))

add(derive(
    "aurora", name="unormuon", note="aurora's constants with rows scaled after a plain polar in place of "
    "its map (normuon.py: the form of the Aurora authors' blog, without moving average); not yet run on 8 "
    "GPUs", matrices=(Nesterov(), Polar("quintic12"), RowNorm(), AspectScale(), Decay())))

add(derive(
    "aurora", name="muoneq", note="aurora's constants with every matrix's rows evened out before a plain "
    "polar in place of its map (MuonEq's row form, arXiv 2603.28254); not tuned; not yet run on 8 GPUs",
    matrices=(Nesterov(), Equilibrate(), Polar("quintic12"), AspectScale(), Decay()),
    balance=Balance(attn="rows", up="rows", down="rows")))

add(derive(
    "aurora", name="muoneq-fc", note="aurora's constants with fc's rows evened out, and its columns by the "
    "root of their norms, before a plain polar in place of its map: below aurora on laptop "
    "(records/studies/family); not tuned; not yet run on 8 GPUs",
    matrices=(Nesterov(), Equilibrate(other=0.5), Polar("quintic12"), AspectScale(), Decay())))

add(derive(
    "aurora", name="riemannian", note="aurora's constants with the constrained optimum (riemannian.py) in "
    "place of its map: the control arm of whether alignment with the gradient matters; not yet run on 8 "
    "GPUs", matrices=(Nesterov(), RiemannianPolar(), AspectScale(), Decay())))


def row(number: int, what: str, **values) -> Recipe:
    """A row of modded-nanogpt's track 3, https://github.com/KellerJordan/modded-nanogpt
    records/track_3_optimization/README.md; its constants as in the code its log holds. `steps` is the step
    the row claims, `schedule_steps` the length its schedule is drawn for."""
    common = dict(cooldown_frac=0.7, warmup_steps=0, momentum=0.95, balance=Balance(), aux=AUX)
    return Recipe(name=f"track3-{number}", note=f"modded-nanogpt track 3, row {number}: {what}; not yet run "
                  "here on 8 GPUs", on={"sprint": SPRINT, "laptop": LAPTOP}, **{**common, **values})


add(row(36, "Muon and auxiliary AdamW tuned, 3.2787 (n=10)", steps=3250, schedule_steps=3250, lr=0.025,
        weight_decay=0.05, matrices=(Nesterov(), Polar(), AspectScale(), Decay()), aux=AUX_36))

add(row(12, "Muon, 3.2790 (n=20)", steps=3325, schedule_steps=3350, lr=0.035, weight_decay=0.025,
        matrices=(Nesterov(), Polar(), AspectScale(), Decay())))

add(row(10, "NorMuon, 3.2789 (n=20)", steps=3250, schedule_steps=3300, lr=0.035, weight_decay=0.025,
        matrices=(Nesterov(), Polar(), RowVariance(0.95), AspectScale(), Decay())))

add(row(17, "Aurora on both sides of the MLP, Contra-Muon and u/w-floor, 3.2789 (n=20); unlike row 11, "
        "which it builds on, without a variance step", steps=3175, schedule_steps=3200, lr=0.0375,
        weight_decay=0.0, balance=Balance(attn=None, up="long", down="long"),
        matrices=(Nesterov(), Contra(BalancedPolar(iterations=2, beta=0.5), 0.2), AspectScale(),
                  UpdateFloor(0.35))))

add(row(5, "MuonH, 3.2782 (n=10); initial weights normal and biases zero here, uniform (torch's default) "
        "of the same variance there", steps=3325, schedule_steps=3325, lr=0.018, weight_decay=0.0,
        cooldown_frac=1.0, matrices=(Nesterov(), Polar(), Hyperball()), aux=replace(AUX, cooldown_frac=0.4),
        init=Init(attn_proj=1.25**2 / 3, up=1.5**2 / 3, down=3.0**2 / 3)))
