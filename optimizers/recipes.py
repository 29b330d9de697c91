"""Named recipes: every constant of a run in one place, with where it comes from.

RECIPES[name] is the recipe of the 124M tracks. `.on[track]` holds the fields that differ on another track,
by their dotted names; `resolve(name, track)` applies them.
"""
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

from .aurora import BalancedPolar
from .balance import BALANCES
from .contra import Contra
from .decay import Decay
from .equilibrate import Equilibrate
from .floor import UpdateFloor
from .hyperball import Hyperball
from .momentum import Nesterov
from .muon import Polar
from .normuon import RowNorm, RowVariance
from .riemannian import RiemannianPolar
from .scale import AspectScale


@dataclass(frozen=True)
class AdamW:
    """torch.optim.AdamW's own constants."""

    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class Auxiliary:
    """AdamW for what is not a hidden matrix: the embedding, the head, and vectors (gains and biases)."""

    embed_lr: float
    head_lr: float
    vector_lr: float
    weight_decay: float
    beta1: float = 0.8
    beta2: float = 0.95
    eps: float = 1e-10
    cooldown_frac: float | None = None  # None: the recipe's


@dataclass(frozen=True)
class Init:
    """Initial variance times fan-in of the weights of a role; all other hidden weights have .33."""

    attn_proj: float = 0.0
    up: float = 0.33    # fc, gate and up
    down: float = 0.0   # mlp.proj and down

    def variance(self, name: str) -> float:
        """Variance times fan-in of the weight `name` of a train_gpt.GPT; the head's is 0."""
        if ".mlp." in name:
            return self.down if name.split(".")[-2] in ("proj", "down") else self.up
        if ".attn.proj." in name:
            return self.attn_proj
        return 0.0 if name.startswith("proj.") else 0.33


@dataclass(frozen=True)
class Balance:
    """The side that is evened out, by the matrix's role: attention; up, gate and fc; down and mlp.proj."""

    attn: str | None = None
    up: str | None = None
    down: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What a run may choose. Learning rates are peaks: lr(t) = peak * warm-up(t) * cooldown(t).

    warm-up rises linearly over warmup_steps; cooldown falls linearly to 0 over the last `cooldown_frac` of
    schedule_steps (the auxiliary optimizer may have one of its own). steps <= schedule_steps is where the
    run stops.
    """

    name: str
    note: str                        # where the constants come from and what has been run with them
    steps: int
    schedule_steps: int
    cooldown_frac: float
    warmup_steps: int
    lr: float                        # hidden matrices
    weight_decay: float
    momentum: float
    matrices: tuple | AdamW          # the chain of the hidden matrices, or AdamW
    balance: Balance
    aux: Auxiliary
    init: Init = Init()
    wrappers: tuple = ()             # around all optimizers, see wrappers.py
    on: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def aux_cooldown_frac(self) -> float:
        """The auxiliary optimizer's own cooldown, else that of the matrices."""
        return self.cooldown_frac if self.aux.cooldown_frac is None else self.aux.cooldown_frac

    def check(self) -> None:
        """Raises ValueError naming the field, its value and the remedy."""
        endless, aux = float("inf"), self.aux
        adam = self.matrices if isinstance(self.matrices, AdamW) else aux
        if self.steps < 1:
            raise ValueError(f"recipe.steps must be at least 1, got {self.steps}")
        if max(self.steps, self.warmup_steps) > self.schedule_steps:
            raise ValueError(f"recipe.steps {self.steps} and warmup_steps {self.warmup_steps} must not "
                             f"exceed recipe.schedule_steps {self.schedule_steps}: lower them, or set "
                             f"recipe.schedule_steps {max(self.steps, self.warmup_steps)}")
        if isinstance(self.matrices, AdamW) and (self.momentum or any(asdict(self.balance).values())):
            raise ValueError("recipe.momentum and recipe.balance mean nothing to AdamW; see matrices.beta1")
        for name, share in (("", self.cooldown_frac), ("aux.", aux.cooldown_frac)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"recipe.{name}cooldown_frac must lie in 0..1, got {share}")
        for name, value, end in (
                ("warmup_steps", self.warmup_steps, endless), ("lr", self.lr, endless),
                ("weight_decay", self.weight_decay, endless), ("momentum", self.momentum, 1),
                ("aux.embed_lr", aux.embed_lr, endless), ("aux.head_lr", aux.head_lr, endless),
                ("aux.vector_lr", aux.vector_lr, endless), ("aux.weight_decay", aux.weight_decay, endless),
                *((f"init.{role}", value, endless) for role, value in asdict(self.init).items()),
                *((f"{n} of AdamW", getattr(a, n), 1)
                  for n in ("beta1", "beta2", "eps") for a in (aux, adam))):
            if not 0 <= value < end:
                raise ValueError(f"recipe.{name} must lie in [0, {end}), got {value}")
        for role, side in asdict(self.balance).items():
            if side not in BALANCES:
                raise ValueError(f"recipe.balance.{role} must be one of {BALANCES}, got {side!r}")

    def resolved(self) -> dict:
        """This recipe as plain JSON, all that decides a run: what the log stores and hashes."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "on"}
        return {name: asdict(value) if is_dataclass(value) else
                [repr(part) for part in value] if isinstance(value, tuple) else value
                for name, value in plain.items()}


# Auxiliary AdamW of modded-nanogpt's track 3: rows before #36, and the tuned ones of #36.
AUX = Auxiliary(embed_lr=0.3, head_lr=1 / 320, vector_lr=0.01, weight_decay=0.0)
AUX_36 = Auxiliary(embed_lr=0.7, head_lr=0.004, vector_lr=0.015, weight_decay=0.001)

# What differs on `laptop` is tuned there, by scripts/sweep.py: records/tuning/.
_SPRINT = {"steps": 1525, "schedule_steps": 1525}  # one pass over the first shard
_LAPTOP = {"steps": 300, "schedule_steps": 300}
_ELSEWHERE = {"sprint": _SPRINT, "laptop": _LAPTOP}


def _like_36(name: str, note: str, laptop: dict, lr=0.035, weight_decay=0.025, **values) -> Recipe:
    """A recipe with row 36's schedule and auxiliary rates; `laptop` is what was tuned there."""
    common = dict(steps=3250, schedule_steps=3250, cooldown_frac=0.7, warmup_steps=0, momentum=0.95,
                  balance=Balance(), aux=AUX_36)
    return Recipe(name=name, note=note, lr=lr, weight_decay=weight_decay,
                  on={"sprint": _SPRINT, "laptop": {**_LAPTOP, **laptop}}, **{**common, **values})


def _row(number: int, what: str, **values) -> Recipe:
    """A row of modded-nanogpt's track 3, https://github.com/KellerJordan/modded-nanogpt
    records/track_3_optimization/README.md; its constants as in the code its log holds. `steps` is the step
    the row claims, `schedule_steps` the length its schedule is drawn for."""
    common = dict(cooldown_frac=0.7, warmup_steps=0, momentum=0.95, balance=Balance(), aux=AUX)
    return Recipe(name=f"track3-{number}", note=f"modded-nanogpt track 3, row {number}: {what}; not yet run "
                  "here on 8 GPUs", on=_ELSEWHERE, **{**common, **values})

RECIPES = {recipe.name: recipe for recipe in (
    Recipe(
        name="adamw",
        note="modded-nanogpt track 3, row 2 (5,625 steps there, one seed); not yet run here on 8 GPUs",
        steps=5625, schedule_steps=5625, cooldown_frac=0.7, warmup_steps=250,
        lr=0.0015, weight_decay=0.1, momentum=0.0,
        matrices=AdamW(beta1=0.9, beta2=0.95, eps=1e-10), balance=Balance(), aux=AUX,
        on={"sprint": _SPRINT,
            # the other recipes' auxiliary rates, so that there only the hidden matrices' optimizer differs
            "laptop": {**_LAPTOP, "aux": AUX_36, "warmup_steps": 13, "lr": 0.002, "weight_decay": 0.1}},
    ),
    _like_36(
        "muon", "modded-nanogpt track 3, row 36 (3,250 steps there, n=10); not yet run here on 8 GPUs",
        lr=0.025, weight_decay=0.05, matrices=(Nesterov(), Polar("quintic12"), AspectScale(), Decay()),
        laptop=dict(lr=0.02, weight_decay=0.025)),
    _like_36(
        "aurora", "row 36's auxiliary settings; lr and weight decay of rows 10 and 12; the paper's balance "
        "(arXiv 2606.27715: rows of tall matrices); not yet run on 8 GPUs",
        matrices=(Nesterov(), BalancedPolar(iterations=2, beta=0.5), AspectScale(), Decay()),
        balance=Balance(up="rows"), laptop=dict(lr=0.028, weight_decay=0.05)),
    _like_36(
        "normuon", "aurora's constants with NorMuon's second moment per row behind a plain polar in place of "
        "its map (beta2 of track 3, row 10); not yet run on 8 GPUs",
        matrices=(Nesterov(), Polar("quintic12"), RowVariance(0.95), AspectScale(), Decay()),
        laptop=dict(lr=0.028, weight_decay=0.05)),
    _like_36(
        "unormuon", "aurora's constants with rows scaled behind a plain polar in place of its map "
        "(normuon.py: the form of the Aurora authors' blog, without moving average); not yet run on 8 GPUs",
        matrices=(Nesterov(), Polar("quintic12"), RowNorm(), AspectScale(), Decay()),
        balance=Balance(up="rows"), laptop=dict(lr=0.028, weight_decay=0.05)),
    _like_36(
        "muoneq", "aurora's constants with every matrix's rows evened out before a plain polar in place of "
        "its map (MuonEq's row form, arXiv 2603.28254); not tuned; not yet run on 8 GPUs",
        matrices=(Nesterov(), Equilibrate(), Polar("quintic12"), AspectScale(), Decay()),
        balance=Balance(attn="rows", up="rows", down="rows"), laptop=dict(lr=0.028, weight_decay=0.05)),
    _like_36(
        "muoneq-fc", "aurora's constants with fc's rows evened out, and its columns by the root of their "
        "norms, before a plain polar in place of its map: below aurora on laptop (records/studies/family); "
        "not tuned; not yet run on 8 GPUs",
        matrices=(Nesterov(), Equilibrate(other=0.5), Polar("quintic12"), AspectScale(), Decay()),
        balance=Balance(up="rows"), laptop=dict(lr=0.028, weight_decay=0.05)),
    _like_36(
        "riemannian", "aurora's constants with the constrained optimum (riemannian.py) in place of its map: "
        "the control arm of whether alignment with the gradient matters; not yet run on 8 GPUs",
        matrices=(Nesterov(), RiemannianPolar(), AspectScale(), Decay()),
        balance=Balance(up="rows"), laptop=dict(lr=0.028, weight_decay=0.05)),
    _row(36, "Muon and auxiliary AdamW tuned, 3.2787 (n=10)", steps=3250, schedule_steps=3250, lr=0.025,
         weight_decay=0.05, matrices=(Nesterov(), Polar(), AspectScale(), Decay()), aux=AUX_36),
    _row(12, "Muon, 3.2790 (n=20)", steps=3325, schedule_steps=3350, lr=0.035, weight_decay=0.025,
         matrices=(Nesterov(), Polar(), AspectScale(), Decay())),
    _row(10, "NorMuon, 3.2789 (n=20)", steps=3250, schedule_steps=3300, lr=0.035, weight_decay=0.025,
         matrices=(Nesterov(), Polar(), RowVariance(0.95), AspectScale(), Decay())),
    _row(17, "Aurora on both sides of the MLP, Contra-Muon and u/w-floor, 3.2789 (n=20); unlike row 11, "
         "which it builds on, without a variance step", steps=3175, schedule_steps=3200, lr=0.0375,
         weight_decay=0.0, balance=Balance(attn=None, up="long", down="long"),
         matrices=(Nesterov(), Contra(BalancedPolar(iterations=2, beta=0.5), 0.2), AspectScale(),
                   UpdateFloor(0.35))),
    _row(5, "MuonH, 3.2782 (n=10); initial weights normal and biases zero here, uniform (torch's default) "
         "of the same variance there", steps=3325, schedule_steps=3325, lr=0.018, weight_decay=0.0,
         cooldown_frac=1.0, matrices=(Nesterov(), Polar(), Hyperball()), aux=replace(AUX, cooldown_frac=0.4),
         init=Init(attn_proj=1.25**2 / 3, up=1.5**2 / 3, down=3.0**2 / 3)),
)}


def with_field(target, dotted: str, change):
    """A copy of a (nested) dataclass with the field `dotted` set to change(its type, its value).

    "lr", "aux.embed_lr", "matrices.BalancedPolar.beta": a tuple of stages is entered by a class name.
    Raises KeyError(part, known names) for an unknown part.
    """
    head, _, rest = dotted.partition(".")
    if isinstance(target, tuple):
        names = [type(stage).__name__ for stage in target]
        if head not in names:
            raise KeyError(head, names)
        if not rest:
            raise ValueError(f"{head} is a stage: name a field of it")
        at = names.index(head)
        return (*target[:at], with_field(target[at], rest, change), *target[at + 1:])
    types = {f.name: f.type for f in fields(target) if f.name not in ("name", "note", "on")} \
        if is_dataclass(target) else {}
    if head not in types:
        raise KeyError(head, list(types))
    old = getattr(target, head)
    return replace(target, **{head: with_field(old, rest, change) if rest else change(types[head], old)})


def resolve(name: str, track: str) -> Recipe:
    """The named recipe with what it changes on `track`.

    Raises KeyError for an unknown name, ValueError where the recipe's `on` names a field that is not there.
    """
    recipe = RECIPES[name]
    for dotted, value in recipe.on.get(track, {}).items():
        try:
            recipe = with_field(recipe, dotted, lambda _type, _old, value=value: value)
        except KeyError as error:
            raise ValueError(f"recipe {name}, on[{track!r}]: no field {error.args[0]!r}") from None
    return recipe
