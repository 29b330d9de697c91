"""The matrix optimizer of an exported script, whose training loop sums the gradients over ranks itself.

It steps as optimizers/matrix.py does, to the digit, without what such a script has no use for: checks, state
that is saved or edited by hand, gradients that are missing or not finite.
"""
import torch
import torch.distributed as dist

from optimizers.stage import init_state, run_chain, scalars_of


class ChainOptimizer(torch.optim.Optimizer):
    """W <- W - lr u, where u is what the stages of `chain` make of the gradient summed over all ranks.

    Matrices of one group and shape are one batch: each rank updates its share and gets the others'.
    """

    def __init__(self, params, chain, lr, weight_decay, momentum):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, step=0))
        self.chain, self.batches = chain, []
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        on_cuda = self.param_groups[0]["params"][0].is_cuda
        self.run = torch.compile(run_chain, dynamic=False) if on_cuda else run_chain

    def batches_of(self, group):
        """(group, parameters, those this rank owns, their state, slots of a rank) for each shape."""
        shapes = {}
        for name, p in zip(group["param_names"], group["params"]):
            shapes.setdefault(p.shape, []).append((name, p))
        for pairs in shapes.values():
            slots = -(-len(pairs) // self.world_size)
            mine = pairs[self.rank * slots:(self.rank + 1) * slots]
            names, owned = [name for name, _ in mine], [p for _, p in mine]
            state = init_state(self.chain, torch.stack(owned), group["balance"], names) if owned else {}
            yield group, [p for _, p in pairs], owned, state, slots

    @torch.no_grad()
    def step(self):
        if not self.batches:
            self.batches = [batch for group in self.param_groups for batch in self.batches_of(group)]
        for group, params, owned, state, slots in self.batches:
            new = params[0].new_zeros((slots, *params[0].shape))
            if owned:
                new[:len(owned)] = self.update(group, torch.stack(owned),
                                               torch.stack([p.grad for p in owned]), state)
            everyone = [torch.empty_like(new) for _ in range(self.world_size)]
            dist.all_gather(everyone, new)
            for p, weight in zip(params, torch.cat(everyone)):
                p.copy_(weight)
        for group in self.param_groups:
            group["step"] += 1

    def update(self, group, weight, grad, state):
        """The new weights (batch, rows, cols) of matrices this rank owns; their state is written in place."""
        first = group["step"] == 0 and any(stage.asks_first for stage in self.chain)
        with torch._dynamo.config.patch(recompile_limit=256):  # a graph for each shape and trial
            return self.run(self.chain, weight, grad, state, scalars_of(group), group["balance"], first, None)
