"""How fast a machine is at a fixed piece of work, for the log of each run: off the clock, part of no claim.

Seconds of two runs compare only on one machine in one state; two scores that differ say that it was not.
"""
import statistics
import time

import torch

from .world import World

REPEATS = 11
# Per device: the side of the matrices, their dtype, and the float32 numbers of an all-reduce. Each is large
# enough to outlast its launch and small enough for a fraction of a second in all.
WORK = {"cpu": (512, torch.float32, 2**18), "cuda": (8192, torch.bfloat16, 2**25)}


def score(world: World) -> dict:
    """Median milliseconds of a matrix product, `product_ms`, and with several ranks of an all-reduce of
    float32 sums, `all_reduce_ms` (None with one), each over 11 repeats and by the slowest rank.

    The product is (n, n) @ (n, n), so 2 n^3 FLOPs: n = 512 in float32 on a CPU, 8192 in bfloat16 on CUDA.
    The all-reduce takes 1 MiB on a CPU, 128 MiB on CUDA. Every rank must call it; the global random state
    is not touched.
    """
    side, dtype, numbers = WORK[world.device.type]
    # Not zeros: a GPU multiplies them with less power, and so at a higher clock.
    generator = torch.Generator(world.device).manual_seed(0)
    a, b = (torch.randn((side, side), generator=generator, device=world.device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    found = dict(product_ms=_median_ms(world, lambda: torch.mm(a, b, out=product)), all_reduce_ms=None)
    if world.size > 1:
        sums = torch.zeros(numbers, device=world.device)
        found["all_reduce_ms"] = _median_ms(world, lambda: world.sum(sums))
    return found


@torch.no_grad()
def _median_ms(world: World, work) -> float:
    """The median time of `work`, of the slowest rank; the first two calls warm up."""
    times = []
    for _ in range(REPEATS + 2):
        world.barrier()
        started = time.perf_counter()
        work()
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return -world.minimum(-round(1e6 * statistics.median(times[2:]))) / 1000
