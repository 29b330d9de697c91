"""MatrixOptimizer: a chain of stages over stacks of equal-shaped matrices, sharded over ranks if asked.

Muon and its relatives are one pattern: momentum, a few functions of the update, a step, sometimes a touch
afterwards. A Stage is one such function on a stack (batch, rows, cols); an optimizer is a tuple of them.

One step, with a process group of W ranks (W = 1 without one), for every stack of B matrices:
    1. reduce-scatter   gradients, summed in float32 or more, to their owners: ceil(B / W) a rank, padded
                        (or, by `send`, one reduce a matrix, during the backward pass)
    2. update           the owned matrices in one batched call, compiled once per stack on CUDA
    3. all-gather       the new weights to every rank
All of 1 is started before the first 2, and every 3 before the first is waited for, largest stack first; a
single rank goes stack by stack.
"""
import inspect

import torch
from torch import Tensor

from .balance import BALANCES
from .finite import GradientCheck
from .owners import Owners
from .stack import Stack, names_of, stacks_of
from .stage import run_chain, scalars_of

OPTIONS = ("lr", "weight_decay", "momentum", "balance", "step")  # that every param group and its state have
REMEDIES = {3: "make each of the stacked matrices a parameter of its own (flattened, they would be "
               "orthogonalised as one)", 4: "reshape a convolution's to (out, in * height * width)"}


class MatrixOptimizer(torch.optim.Optimizer):
    """W <- W - lr u, where u is what `chain` makes of the gradient; the base class of Muon, Aurora and kin.

    params: 2-D parameters, param groups, or named_parameters(). Per group: lr, weight_decay, momentum, and
    balance.
    process_group: None takes the gradients as they are (one process, or already reduced). With a group,
    step() sums the gradients over its ranks in float32, updates the matrices this rank owns and gathers the
    weights; state_dict() is then a collective that returns the complete state, which loads at any world
    size.
    State is optimizer.state[p][name], views of the stack. No gradient, and nothing but the weights, is
    written. A parameter that has no gradient (with a group: on any rank) keeps its weight and state; a step
    without any is counted, in group["step"], only with a group. Groups may be changed by hand between steps,
    on all ranks alike; a parameter that leaves them loses its state.
    A non-finite gradient changes neither weight nor state; the error names the parameter and is raised at
    once on the CPU, on CUDA at the next step (so that no step waits for the device). A caller that makes
    this check itself sets `optimizer.found_inf` to a 0-d tensor, non-zero to skip, as torch's fused AdamW
    takes it; with a group to the same on every rank, where every parameter must then have a gradient.
    """

    def __init__(self, params, chain, lr, weight_decay=0.0, momentum=0.95, balance=None, process_group=None):
        self.chain = tuple(chain)
        self.owners = Owners(process_group)
        if self.owners.rank < 0:
            raise ValueError(f"{type(self).__name__}: this rank is not in process_group; give each rank a "
                             "group that it belongs to")
        self.gradient_check = GradientCheck(type(self).__name__, self.owners)
        self.stacks: list[Stack] = []  # as of the last step; none before the first
        self._built_of: list = []      # (group, parameter, balance) of what the stacks hold
        self._compiled = None
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, balance=balance,
                                      step=0))

    @property
    def world_size(self) -> int:
        """Ranks that the matrices are sharded over."""
        return self.owners.world_size

    # ------------------------------------------------------------------ checks

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; ValueError for what is not a plain 2-D float matrix and for values out of range."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict) -> None:
        kind = type(self).__name__
        for key, high in (("lr", float("inf")), ("weight_decay", float("inf")), ("momentum", 1)):
            if not isinstance(group[key], (int, float, Tensor)) or not 0 <= float(group[key]) < high:
                raise ValueError(f"{kind}: {key} must lie in [0, {high}), got {group[key]}")
        for key in {*inspect.signature(type(self)).parameters} - {*self.defaults, "params"}:
            if key in group:
                raise ValueError(f"{kind}: {key} is the optimizer's, not a param group's; give these "
                                 "matrices an optimizer of their own")
        if group["balance"] not in BALANCES:
            raise ValueError(f"{kind}: balance must be one of {BALANCES}, got {group['balance']!r}")
        for p, name in zip(group["params"], names_of(group)):
            if p.ndim != 2 or not p.is_floating_point() or p.numel() == 0:
                raise ValueError(f"{kind}: {name} has shape {tuple(p.shape)} and dtype {p.dtype}; only 2-D "
                                 "float matrices can be orthogonalised: "
                                 + REMEDIES.get(p.ndim, "give it to AdamW"))
            if hasattr(p, "device_mesh"):
                raise ValueError(f"{kind}: {name} is a DTensor; orthogonalising a shard is not "
                                 "orthogonalising the matrix: pass whole matrices with process_group=...")

    def _gradients(self, stack: Stack) -> list:
        """One for each parameter, None where there is none."""
        sent = self.owners.was_sent(stack)
        if 0 < len(sent) < len(stack.params):
            self.owners.forget_sent()
            raise RuntimeError(f"{type(self).__name__}: some gradients were given to send(), not all")
        # With a verdict or sums made elsewhere, ranks do not tell each other which gradients there are.
        all_needed = self.world_size > 1 and (getattr(self, "found_inf", None) is not None or sent)
        for p, name in zip(stack.params, stack.names):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise ValueError(f"{type(self).__name__}: {name} has a sparse gradient; use sparse=False")
            if p.grad is None and all_needed:
                raise ValueError(f"{type(self).__name__}: {name} has no gradient on rank {self.owners.rank}; "
                                 "with found_inf or send(), set p.grad of an unused parameter to zeros")
        return [p.grad for p in stack.params]

    # ------------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, closure=None):
        """One step; returns the closure's loss. Never waits for the device. See the class for errors; after
        any other one, such as out of memory, some matrices may have been updated and others not."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            self.gradient_check.raise_pending()
            stacks = self._current()
            grads = [self._gradients(stack) for stack in stacks]
            if not stacks or self.world_size == 1 and all(g is None for of in grads for g in of):
                return loss
            skips = self.gradient_check.skips(stacks, grads, getattr(self, "found_inf", None))
        except (ValueError, FloatingPointError):
            self.owners.forget_sent()
            raise
        if self.world_size == 1:  # stack by stack: one stack's temporaries at a time
            for stack, g, skip in zip(stacks, grads, skips):
                stack.write(self._update(stack, *self.owners.reduce(stack, g), skip))
        else:
            reduced = [self.owners.reduce(stack, g) for stack, g in zip(stacks, grads)]
            gathers = [self.owners.gather(stack, self._update(stack, *r, skip))
                       for stack, r, skip in zip(stacks, reduced, skips)]
            for stack, (full, work) in zip(stacks, gathers):
                work.wait()
                stack.write(full)
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def send(self, p: Tensor, grad: Tensor) -> None:
        """Begin to sum `grad` over the ranks on the one that owns `p`; the next step() waits for it.

        For use during the backward pass: every rank must send every parameter, in one order. `grad` is
        copied. ValueError for a parameter that is not this optimizer's, RuntimeError for one sent twice.
        """
        stacks = self.stacks if self.owners.sent else self._current()
        found = next(((s, i) for s in stacks for i, other in enumerate(s.params) if other is p), None)
        if not found or self.world_size == 1:
            raise ValueError(f"{type(self).__name__}.send: this parameter is not sharded by this optimizer")
        stack, i = found
        if i in self.owners.was_sent(stack):
            raise RuntimeError(f"{type(self).__name__}.send: {stack.names[i]} was sent twice before step()")
        self.owners.send(stack, i, grad)

    def _update(self, stack: Stack, grad: Tensor, works: list, skip: Tensor) -> Tensor:
        """The new weights of the owned matrices, padded to the rank's slots."""
        for work in works:
            work.wait()
        group, count = stack.group, len(stack.owned)
        weight = stack.batch(stack.owned, stack.per_rank)
        if count == 0:
            return weight
        with torch.autocast(weight.device.type, enabled=False):  # or it would lower the polar's precision
            new = self._run(weight[:count], grad[:count], stack.state, scalars_of(group), group, skip)
        return new if count == stack.per_rank else torch.cat((new, weight[count:]))

    def _run(self, weight: Tensor, grad: Tensor, state: dict, scalars: dict, group: dict, skip) -> Tensor:
        first = group["step"] == 0 and any(stage.asks_first for stage in self.chain)
        rest = (scalars, group["balance"], first)
        if weight.is_cuda:
            if self._compiled is None:
                # dynamic=False: a stack's shape never changes, so each is compiled once and for good.
                self._compiled = torch.compile(run_chain, dynamic=False)
            mask = weight.new_zeros(len(weight), dtype=torch.bool) | skip.to(weight.device)  # of one shape
            with torch._dynamo.config.patch(recompile_limit=256):  # not 8: a graph a shape and chain, or more
                return self._compiled(self.chain, weight, grad, state, *rest, mask)
        if skip.all():  # on the CPU a look costs nothing, and saves the passes that mask
            return weight
        return run_chain(self.chain, weight, grad, state, *rest, skip if skip.any() else None)

    # ------------------------------------------------------------------ state

    def _current(self) -> list[Stack]:
        """The stacks, built again where groups, parameters or balance are others, or state was cleared."""
        members = [(group, p, group["balance"]) for group in self.param_groups for p in group["params"]]
        now, built = ([(id(g), id(p), balance) for g, p, balance in of] for of in (members, self._built_of))
        if now != built or any(p not in self.state for _, p, _ in members):
            self._rebuild(members)
        self._adopt()
        return self.stacks

    @torch.no_grad()
    def _rebuild(self, members: list) -> None:
        self.owners.forget_sent()
        if self.world_size > 1 and self.stacks:  # owners may change: first, all have all
            self._adopt()
            for p, state in self.owners.whole_state(self.stacks).items():
                if p in self.state:
                    self.state[p] = state
        for p in set(self.state) - {p for _, p, _ in members}:
            del self.state[p]
        self.stacks = stacks_of(self.param_groups, self.owners.rank, self.world_size)
        for stack in self.stacks:
            stack.allocate(self.chain, self.state)
        self._built_of = members

    @torch.no_grad()
    def _adopt(self) -> None:
        """Take into the stacks what a caller has put into `state`."""
        for entries, name, view, value in [put for of in self.stacks for put in of.put_by_hand(self.state)]:
            view.copy_(value)
            entries[name] = view

    def state_dict(self) -> dict:
        """The complete state, the same on every rank; a collective where there is a process group."""
        stacks, own = self._current() if self.world_size > 1 else [], self.state
        there = {p for group in self.param_groups for p in group["params"]}  # torch takes no state of others
        try:
            whole = (self.owners.whole_state(stacks) if stacks else
                     {p: s for p, s in own.items() if p in there})
            self.state = type(own)(own.default_factory, whole)
            return super().state_dict()
        finally:
            self.state = own

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a complete state saved at any world size; from the next step each rank keeps what it owns.
        ValueError for one of an optimizer that is no MatrixOptimizer; what this chain keeps and the state
        lacks starts at zero."""
        lacks = [name for group in state_dict["param_groups"] for name in OPTIONS if name not in group]
        if lacks:
            raise ValueError(f"{type(self).__name__}: this is the state of another kind of optimizer: its "
                             f"param groups have no {lacks[0]!r}")
        super().load_state_dict(state_dict)
        self.stacks, self._built_of, self.gradient_check.pending = [], [], None

    def __getstate__(self) -> dict:
        """For copy.deepcopy and pickle: without stacks, which the next step builds from the state. TypeError
        for one that is sharded, whose ranks each hold a part; use state_dict()."""
        if self.world_size > 1:
            raise TypeError(f"{type(self).__name__}: a sharded optimizer cannot be copied; save state_dict()")
        owners = Owners()
        return {**super().__getstate__(), "chain": self.chain, "owners": owners, "stacks": [],
                "gradient_check": GradientCheck(type(self).__name__, owners), "_built_of": [],
                "_compiled": None}
