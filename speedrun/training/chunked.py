"""A summed loss of a linear head, taken by chunks of tokens: the logits of all never exist at once."""
import torch
from torch import Tensor

CHUNK = 2**14  # tokens; their bfloat16 logits over 50304 words are 1.6 GB, and so are their gradients


class ChunkedLoss(torch.autograd.Function):
    """loss(x, weight, bias, targets) summed over chunks of x (tokens, dim) and targets (tokens,).

    The gradients are taken with the loss, chunk by chunk, and kept for the backward pass; those of weight
    and bias are summed over the chunks in their own dtype, float32 here, and each chunk's are in that of x.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, gradients_and_loss):
        low = weight.type_as(x), bias.type_as(x)
        of_x, sums, total = [], [torch.zeros_like(weight), torch.zeros_like(bias)], 0.0
        for a, t in zip(x.split(CHUNK), targets.split(CHUNK)):
            (first, *found), value = gradients_and_loss(a, *low, t)
            of_x.append(first)
            for s, g in zip(sums, found):
                s += g
            total = total + value
        ctx.save_for_backward(torch.cat(of_x), *sums)
        return total

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return *(upstream.type_as(g) * g for g in ctx.saved_tensors), None, None


def chunked(loss, wrap):
    """`loss` in chunks. wrap: what compiles a function, or leaves it as it is."""
    gradients_and_loss, plain = wrap(torch.func.grad_and_value(loss, argnums=(0, 1, 2))), wrap(loss)

    def run(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # asked here: a Function's needs_input_grad is true under no_grad, too
            return ChunkedLoss.apply(x, weight, bias, targets, gradients_and_loss)
        low = weight.type_as(x), bias.type_as(x)
        return sum(plain(a, *low, t) for a, t in zip(x.split(CHUNK), targets.split(CHUNK)))
    return run
