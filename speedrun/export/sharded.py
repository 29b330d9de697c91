"""The matrix optimizer of an exported script, whose training loop sums the gradients over ranks itself."""
import torch

from optimizers.matrix import MatrixOptimizer, Stack


class SummedGradientOptimizer(MatrixOptimizer):
    """MatrixOptimizer for gradients that every rank holds already summed over the process group.

    Each rank takes the matrices it owns from its own gradients; the rest is as ever: the updated weights
    are gathered, so that all ranks have bit-equal ones.
    """

    def _reduce(self, stack: Stack, grads: list) -> tuple:
        dtype = torch.promote_types(grads[0].dtype, torch.float32)
        return stack.batch(grads[stack.first:stack.first + len(stack.owned)], stack.per_rank, dtype), []
