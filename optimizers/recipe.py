"""Recipe: every constant of a run, checked, and changed by the dotted name of a field.

`recipe.on[track]` holds the fields that differ on a track, by their dotted names; `for_track` applies them.
"""
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace

from .balance import BALANCES


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

    def for_track(self, track: str) -> "Recipe":
        """This recipe with what it changes on `track`. ValueError where `on` names a field that is not there.
        """
        recipe = self
        for dotted, value in self.on.get(track, {}).items():
            try:
                recipe = with_field(recipe, dotted, lambda _type, _old, value=value: value)
            except KeyError as error:
                raise ValueError(f"recipe {self.name}, on[{track!r}]: no field {error.args[0]!r}") from None
        return recipe

    def resolved(self) -> dict:
        """This recipe as plain JSON, all that decides a run: what the log stores and hashes."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "on"}
        return {name: asdict(value) if is_dataclass(value) else
                [repr(part) for part in value] if isinstance(value, tuple) else value
                for name, value in plain.items()}


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
