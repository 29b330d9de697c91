"""MatrixOptimizer: a chain of stages over stacks of equal-shaped matrices, sharded over ranks if asked.

Muon and its relatives are one pattern: momentum, a few functions of the update, a step, sometimes a touch
afterwards. A Stage is one such function on a stack (batch, rows, cols); an optimizer is a tuple of them.

One step, with a process group of W ranks (W = 1 without one), for every stack of B matrices:
    1. reduce-scatter   gradients, summed in float32 or more, to their owners: ceil(B / W) a rank, padded
                        (or, by `send`, one reduce a matrix, while the backward pass goes on)
    2. update           the owned matrices in one batched call, compiled once per stack on CUDA
    3. all-gather       the new weights to every rank
All of 1 is started before the first 2, and every 3 before the first is waited for, largest stack first; a
single rank goes stack by stack.
"""
import inspect

import torch
import torch.distributed as dist
from torch import Tensor

from .balance import BALANCES
from .stage import init_state, run_chain, scalars_of

# torch 2.13 renamed the collectives of one tensor; 2.11 has only the old names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

CPU_STACK_BYTES = 2**22  # of weights; larger stacks are split on the CPU, where it costs no launches
REMEDIES = {3: "make each of the stacked matrices a parameter of its own (flattened, they would be "
               "orthogonalised as one)", 4: "reshape a convolution's to (out, in * height * width)"}


class Stack:
    """Matrices of one shape, dtype and param group; this rank owns `params[first : first + owned]`."""

    def __init__(self, group: dict, params: list, names: list, rank: int, world_size: int):
        self.group, self.params, self.names = group, params, names
        self.per_rank = -(-len(params) // world_size)  # slots; the last ranks' may be empty
        self.first = min(rank * self.per_rank, len(params))
        self.owned = params[self.first:(rank + 1) * self.per_rank]
        self.state: dict[str, Tensor] = {}
        self.views: list[dict] = []      # of the owned matrices: the state's entries, by name
        self.sums: Tensor | None = None  # of the gradients that `send` got before this step
        self.works: dict = {}            # index of a parameter -> its way to the owner, to be waited for

    def batch(self, tensors: list, slots: int, dtype: torch.dtype | None = None) -> Tensor:
        """`tensors` as one (slots, rows, cols), zeros behind the last; a single one is not copied."""
        like = self.params[0]
        if len(tensors) == slots == 1:
            return tensors[0].detach().to(dtype or like.dtype)[None]
        out = torch.empty((slots, *like.shape), dtype=dtype or like.dtype, device=like.device)
        if tensors:
            torch._foreach_copy_(list(out[:len(tensors)].unbind(0)), tensors)
        out[len(tensors):].zero_()
        return out

    def write(self, full: Tensor) -> None:
        """The new weights, (slots, rows, cols), to the parameters."""
        torch._foreach_copy_(self.params, list(full[:len(self.params)].unbind(0)))

    def allocate(self, chain, old: dict) -> None:
        """State for the owned matrices, as per-parameter views in `old`; what `old` holds already stays."""
        weight = self.batch(self.owned, len(self.owned))
        names = self.names[self.first:self.first + len(self.owned)]
        self.state = init_state(chain, weight, self.group["balance"], names)
        for i, p in enumerate(self.owned):
            for name, value in self.state.items():
                # A row's or column's own state is of no use where the balance has changed sides since.
                if name in old.get(p, {}) and value[i].shape in (p.shape, old[p][name].shape):
                    value[i].copy_(old[p][name])
            self.views.append({name: value[i] for name, value in self.state.items()})
            old[p] = dict(self.views[i])
        for p in self.params[:self.first] + self.params[self.first + len(self.owned):]:
            old[p] = {}  # with no entry, torch's checkpoints would call step() for one, on this rank alone

    def put_by_hand(self, state: dict) -> list:
        """(entries of a parameter, name, view, a copy of the value) where a caller has put something in a
        view's place in `state`, which may be another view; a cleared one is zero."""
        return [(state[p], name, view, state[p][name].clone() if name in state[p] else torch.zeros_like(view))
                for p, views in zip(self.owned, self.views) for name, view in views.items()
                if state[p].get(name) is not view]


class HostCopy:
    """A small tensor on its way to the host; get() waits for that copy alone, not for later work."""

    def __init__(self, value: Tensor):
        self.host, self.event = value, None
        if value.is_cuda:
            self.host = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
            self.host.copy_(value, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def get(self) -> list:
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


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
        self.process_group = process_group
        self.rank = dist.get_rank(process_group) if process_group is not None else 0
        self.world_size = dist.get_world_size(process_group) if process_group is not None else 1
        if self.rank < 0:
            raise ValueError(f"{type(self).__name__}: this rank is not in process_group; give each rank a "
                             "group that it belongs to")
        self._stacks: list[Stack] | None = None
        self._built_of: list = []  # (group, parameter, balance) of what the stacks hold
        self._pending = None  # (HostCopy, names) of a step on CUDA not yet looked at
        self._compiled = None
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, balance=balance,
                                      step=0))

    # ------------------------------------------------------------------ checks

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; ValueError for what is not a plain 2-D float matrix and for values out of range."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check(self, group: dict) -> None:
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
        for p, name in zip(group["params"], _names(group)):
            if p.ndim != 2 or not p.is_floating_point() or p.numel() == 0:
                raise ValueError(f"{kind}: {name} has shape {tuple(p.shape)} and dtype {p.dtype}; only 2-D "
                                 "float matrices can be orthogonalised: "
                                 + REMEDIES.get(p.ndim, "give it to AdamW"))
            if hasattr(p, "device_mesh"):
                raise ValueError(f"{kind}: {name} is a DTensor; orthogonalising a shard is not "
                                 "orthogonalising the matrix: pass whole matrices with process_group=...")

    def _gradients(self, stack: Stack) -> list:
        """One for each parameter, None where there is none."""
        if 0 < len(stack.works) < len(stack.params):
            self._forget_sent()
            raise RuntimeError(f"{type(self).__name__}: some gradients were given to send(), not all")
        # With a verdict or sums made elsewhere, ranks do not tell each other which gradients there are.
        all_needed = self.world_size > 1 and (getattr(self, "found_inf", None) is not None or stack.works)
        for p, name in zip(stack.params, stack.names):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise ValueError(f"{type(self).__name__}: {name} has a sparse gradient; use sparse=False")
            if p.grad is None and all_needed:
                raise ValueError(f"{type(self).__name__}: {name} has no gradient on rank {self.rank}; with "
                                 "found_inf or send(), set p.grad of an unused parameter to zeros")
        return [p.grad for p in stack.params]

    def _raise_pending(self) -> None:
        if self._pending is not None:
            verdict, names = self._pending
            self._pending = None
            self._raise_if_bad(verdict, names)  # of the step before: the device is past it, or nearly

    def _raise_if_bad(self, verdict: HostCopy, names: list) -> None:
        bad = [name for name, flag in zip(names, verdict.get()) if flag]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise FloatingPointError(f"{type(self).__name__}: non-finite gradient in {bad[0]}{more} (or its "
                                     "norm overflows); no weight was changed: lower the learning rate or "
                                     "look at the loss")

    def _skips(self, stacks: list, grads: list) -> list:
        """For each stack a bool tensor, true where weight and state stay: 0-d (a gradient on any rank is not
        finite; the caller's found_inf where set) or (owned,), where some have no gradient, too."""
        flat = [g for of in grads for g in of]
        found_inf, there = getattr(self, "found_inf", None), None
        if found_inf is None:
            found_inf, there = self._verdict(stacks, flat)
        elif any(g is None for g in flat):
            there = _flags([g is not None for g in flat], found_inf.device)
        skip = found_inf != 0
        if there is None:
            return [skip] * len(stacks)
        skips, start = [], 0
        for stack in stacks:
            first = start + stack.first
            skips.append(skip | (there[first:first + len(stack.owned)] == 0))
            start += len(stack.params)
        return skips

    def _verdict(self, stacks: list, grads: list) -> tuple:
        """0-d, non-zero where a gradient on any rank is not finite, which is raised or noted; and which
        parameters have a gradient on any rank, None where it is known that all have."""
        device = stacks[0].params[0].device
        flat = [g.float() if g.dtype == torch.float16 else g for g in grads if g is not None]
        # The 2-norm: on a CPU the inf-norm takes 18 times as long.
        norms = iter([norm.to(device, torch.float32) for norm in torch._foreach_norm(flat)] if flat else ())
        zero = torch.zeros((), device=device)
        bad = (~torch.stack([zero if g is None else next(norms) for g in grads]).isfinite()).float()
        there = None
        if self.world_size > 1 or len(flat) < len(grads):
            there = _flags([g is not None for g in grads], device)
        if self.world_size > 1:
            flags = torch.stack((bad, there))
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.process_group)
            bad, there = flags
        names = [name for stack in stacks for name in stack.names]
        if bad.is_cuda:
            self._pending = HostCopy(bad), names
        else:
            self._raise_if_bad(HostCopy(bad), names)
        return bad.amax(), there

    # ------------------------------------------------------------------ the step

    def _build(self) -> list:
        stacks = []
        for group in self.param_groups:
            members: dict = {}
            for p, name in zip(group["params"], _names(group)):
                members.setdefault((tuple(p.shape), p.dtype, p.device), []).append((p, name))
            for (_, _, device), pairs in members.items():
                length = len(pairs)
                if device.type == "cpu" and self.world_size == 1:  # a stack should fit the cache
                    length = max(1, CPU_STACK_BYTES // pairs[0][0].nbytes)
                for i in range(0, len(pairs), length):
                    params, names = zip(*pairs[i:i + length])
                    stacks.append(Stack(group, params, names, self.rank, self.world_size))
        stacks.sort(key=lambda s: -s.params[0].numel() * s.per_rank)
        for stack in stacks:
            stack.allocate(self.chain, self.state)
        return stacks

    @torch.no_grad()
    def _current(self) -> list:
        """The stacks, built anew where groups, parameters or balance are others, or state was cleared."""
        members = [(group, p, group["balance"]) for group in self.param_groups for p in group["params"]]
        now, built = ([(id(g), id(p), balance) for g, p, balance in of] for of in (members, self._built_of))
        if self._stacks is None or now != built or any(p not in self.state for _, p, _ in members):
            if self.world_size > 1 and self._stacks is not None:  # owners may change: first, all have all
                self._adopt()
                for p, state in self._whole(self._stacks).items():
                    if p in self.state:
                        self.state[p] = state
            for p in set(self.state) - {p for _, p, _ in members}:
                del self.state[p]
            self._stacks, self._built_of = self._build(), members
        self._adopt()
        return self._stacks

    def _adopt(self) -> None:
        """Take into the stacks what a caller has put into `state`."""
        for entries, name, view, value in [put for of in self._stacks for put in of.put_by_hand(self.state)]:
            view.copy_(value)
            entries[name] = view

    @torch.no_grad()
    def step(self, closure=None):
        """One step; returns the closure's loss. Never waits for the device. See the class for errors; after
        any other one, such as out of memory, some matrices may have been updated and others not."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            self._raise_pending()
            stacks = self._current()
            grads = [self._gradients(stack) for stack in stacks]
            if not stacks or self.world_size == 1 and all(g is None for of in grads for g in of):
                return loss
            skips = self._skips(stacks, grads)
        except (ValueError, FloatingPointError):
            self._forget_sent()
            raise
        if self.world_size == 1:  # stack by stack: one stack's temporaries at a time
            for stack, g, skip in zip(stacks, grads, skips):
                stack.write(self._update(stack, *self._reduce(stack, g), skip))
        else:
            reduced = [self._reduce(stack, g) for stack, g in zip(stacks, grads)]
            gathers = [self._gather(stack, self._update(stack, *r, skip))
                       for stack, r, skip in zip(stacks, reduced, skips)]
            for stack, (full, work) in zip(stacks, gathers):
                work.wait()
                stack.write(full)
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def send(self, p: Tensor, grad: Tensor) -> None:
        """Begin to sum `grad` over the ranks on the one that owns `p`; the next step() waits for it.

        For use while the backward pass goes on: every rank must send every parameter, in one order. `grad` is
        copied. ValueError for a parameter that is not this optimizer's, RuntimeError for one sent twice.
        """
        stacks = self._stacks
        if not any(stack.works for stack in stacks or ()):  # the first of a step
            stacks = self._current()
        found = next(((s, i) for s in stacks for i, other in enumerate(s.params) if other is p), None)
        if not found or self.world_size == 1:
            raise ValueError(f"{type(self).__name__}.send: this parameter is not sharded by this optimizer")
        stack, i = found
        if i in stack.works:
            raise RuntimeError(f"{type(self).__name__}.send: {stack.names[i]} was sent twice before step()")
        if stack.sums is None:
            dtype = torch.promote_types(grad.dtype, torch.float32)
            stack.sums = torch.empty((len(stack.params), *p.shape), dtype=dtype, device=p.device)
        stack.sums[i].copy_(grad)
        stack.works[i] = dist.reduce(stack.sums[i], group_dst=i // stack.per_rank, group=self.process_group,
                                     async_op=True)

    def _forget_sent(self) -> None:
        """Drop the gradients that `send` has on their way, for a step that is not taken."""
        for stack in self._stacks or ():
            for work in stack.works.values():
                work.wait()
            stack.sums, stack.works = None, {}

    def _reduce(self, stack: Stack, grads: list) -> tuple:
        """This rank's share of the summed gradients, and what to wait for."""
        if stack.works:
            mine, works = stack.sums[stack.first:stack.first + len(stack.owned)], list(stack.works.values())
            stack.sums, stack.works = None, {}
            return mine, works
        grads = [torch.zeros_like(p) if g is None else g for p, g in zip(stack.params, grads)]
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        everyone = stack.batch(grads, stack.per_rank * self.world_size, dtype)
        if self.world_size == 1:
            return everyone, []
        mine = everyone.new_empty((stack.per_rank, *everyone.shape[1:]))
        return mine, [_reduce_scatter(mine, everyone, group=self.process_group, async_op=True)]

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

    def _gather(self, stack: Stack, mine: Tensor) -> tuple:
        full = mine.new_empty((stack.per_rank * self.world_size, *mine.shape[1:]))
        return full, _all_gather(full, mine.contiguous(), group=self.process_group, async_op=True)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict:
        """The complete state, the same on every rank; a collective where there is a process group."""
        stacks, own = self._current() if self.world_size > 1 else [], self.state
        there = {p for group in self.param_groups for p in group["params"]}  # torch takes no state of others
        try:
            whole = self._whole(stacks) if stacks else {p: s for p, s in own.items() if p in there}
            self.state = type(own)(own.default_factory, whole)
            return super().state_dict()
        finally:
            self.state = own

    def _whole(self, stacks: list) -> dict:
        """parameter -> its state, gathered from the ranks that own it."""
        found: dict = {p: {} for stack in stacks for p in stack.params}
        for stack in stacks:
            for name, value in stack.state.items():
                mine = value.new_zeros((stack.per_rank, *value.shape[1:]))
                mine[:len(stack.owned)] = value
                full, work = self._gather(stack, mine)
                work.wait()
                for i, p in enumerate(stack.params):
                    found[p][name] = full[i]
        return found

    def __getstate__(self) -> dict:
        """For copy.deepcopy and pickle: without stacks, which the next step builds from the state. TypeError
        for one that is sharded, whose ranks each hold a part; use state_dict()."""
        if self.world_size > 1:
            raise TypeError(f"{type(self).__name__}: a sharded optimizer cannot be copied; save state_dict()")
        return {**super().__getstate__(), "chain": self.chain, "process_group": None, "rank": 0,
                "world_size": 1, "_stacks": None, "_built_of": [], "_pending": None, "_compiled": None}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a complete state saved at any world size; from the next step each rank keeps what it owns.
        ValueError for one of an optimizer that is no MatrixOptimizer; what this chain keeps and the state
        lacks starts at zero."""
        lacks = [name for group in state_dict["param_groups"] for name in self.defaults if name not in group]
        if lacks:
            raise ValueError(f"{type(self).__name__}: this is the state of another kind of optimizer: its "
                             f"param groups have no {lacks[0]!r}")
        super().load_state_dict(state_dict)
        self._stacks = self._pending = None


def _flags(values: list, device) -> Tensor:
    """Bools as a float32 tensor on the device, without a copy from the host, which would wait for it."""
    zero, one = torch.arange(2, dtype=torch.float32, device=device)
    return torch.stack([one if value else zero for value in values])


def _names(group: dict) -> list:
    """The names of a group's parameters, or what tells them apart."""
    given = group.get("param_names", ())  # of other length where only `params` was changed by hand
    known = len(given) == len(group["params"])
    return given if known else [f"parameter {i}" for i in range(len(group["params"]))]
