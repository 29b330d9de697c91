"""Tracks: what a run may not change (data, model, tokens per step, validation, target).

A track never changes: every committed log is held to it, field by field. A new grid, target or model is a new
track. No torch here: who judges a log needs the tracks, not the trainer.
"""
import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    num_layers: int
    model_dim: int
    head_dim: int = 128
    mlp_ratio: float = 4
    mlp: str = "relu2"         # relu2: fc, proj;  swiglu: gate, up, down
    dtype: str = "bfloat16"    # of the embedding, and so of every activation

    def check(self) -> None:
        """Raises ValueError naming a field that cannot be."""
        dim, head_dim = self.model_dim, self.head_dim
        for wrong, message in (
                (head_dim < 4 or head_dim % 4, f"head_dim {head_dim} must be a multiple of 4"),
                (dim % max(1, head_dim) or not 0 < dim <= 2**16,
                 f"model_dim {dim} must be a multiple of {head_dim=}, up to 65536"),
                (self.mlp not in ("relu2", "swiglu"), f"mlp {self.mlp!r} must be relu2 or swiglu"),
                (not 1 <= self.mlp_ratio * dim <= 2**20,
                 f"mlp_ratio {self.mlp_ratio} must leave 1 to 2**20 hidden units"),
                (self.dtype not in ("float32", "bfloat16"),
                 f"dtype {self.dtype!r} must be float32 or bfloat16"),
                (not (0 < self.vocab_size <= 2**16 and 0 < self.num_layers <= 1000),
                 "vocab_size must lie in 1..65536 (the shards are uint16), num_layers in 1..1000")):
            if wrong:
                raise ValueError(f"model: {message}")


@dataclass(frozen=True)
class Track:
    """What a run may not change. The validation grid: every `val_every` steps, and every `val_every_tail` in
    the last `tail` of the recipe's schedule; step 0 and the last step always."""

    name: str
    data: str                  # folder under data/
    model: ModelConfig
    tokens_per_step: int
    context: int
    val_tokens: int
    val_every: int
    val_every_tail: int
    tail: float
    target: float | None       # nats
    sha256: dict = field(default_factory=dict)  # shard -> content, where the track pins it
    official: bool = True      # False for presets and for overridden tracks: on no board, may wrap epochs

    @property
    def label(self) -> str:
        return self.name if self.official else "custom"

    def validates(self, step: int, steps: int, schedule_steps: int) -> bool:
        """Whether a run of `steps` steps, its schedule drawn for `schedule_steps`, validates at `step`."""
        in_tail = step >= (1 - self.tail) * schedule_steps
        return step == steps or step % (self.val_every_tail if in_tail else self.val_every) == 0

    def check(self) -> None:
        """Raises ValueError naming a field that cannot be."""
        for name, tokens in (("tokens_per_step", self.tokens_per_step), ("val_tokens", self.val_tokens)):
            if self.context < 1 or tokens < self.context or tokens % self.context:
                raise ValueError(f"track.{name} {tokens} must be a multiple of context {self.context}")
        if min(self.val_every, self.val_every_tail) < 1 or not 0 <= self.tail <= 1:
            raise ValueError("track.val_every and val_every_tail must be at least 1, and tail lie in 0..1")
        if self.target is not None and not 0 < self.target < math.inf:
            raise ValueError(f"track.target {self.target} must be a number above 0, or none")
        self.model.check()


GPT2_SMALL = ModelConfig(vocab_size=50304, num_layers=12, model_dim=768)
FINEWEB = Track("fineweb-124m", "fineweb10B", GPT2_SMALL, tokens_per_step=524288, context=1024,
                val_tokens=10485760, val_every=125, val_every_tail=25, tail=0.1, target=3.28)
TRACKS = {track.name: track for track in (
    FINEWEB,
    replace(FINEWEB, name="sprint", tokens_per_step=65536, target=None),
    Track("laptop", "laptop", ModelConfig(256, 4, 128, head_dim=32, dtype="float32"), tokens_per_step=4096,
          context=256, val_tokens=262144, val_every=25, val_every_tail=10, tail=0.2, target=1.38, sha256={
              "laptop_train_000001.bin": "aabc889d49905f60088863fd913f84d1eb2ec9149b4aef335e5f60406d7af4ff",
              "laptop_val_000000.bin": "a468bbff9de7516856e9bd07314f10f024928212b894258791071e8a4767e692"}),
)}
PRESETS = {track.name: track for track in (  # models without a track
    replace(FINEWEB, name="350m", target=None, official=False,
            model=ModelConfig(50304, 20, 1024, mlp="swiglu", mlp_ratio=2.75)),
    replace(FINEWEB, name="1b", target=None, official=False,
            model=ModelConfig(50304, 24, 1792, mlp="swiglu", mlp_ratio=8 / 3)),
)}
