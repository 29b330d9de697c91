"""The polar factor of a matrix, by Newton-Schulz iteration.

polar(G) = U V' for the thin SVD G = U S V': the nearest matrix with orthonormal columns (rows, if wide).
Newton-Schulz applies an odd polynomial p(s) = a s + b s^3 + c s^5 to the singular values, T times, starting
from G / |G|_F so that all of them lie in (0, 1]:

    tall:  A = X'X,  X <- a X + X (b A + c A^2)          wide:  A = XX',  X <- a X + (b A + c A^2) X

method        | steps | matmul FLOPs / n^3 of n x n, 4n x n | singular values end in     | safe precisions
--------------|-------|-------------------------------------|----------------------------|-------------------
quintic12     | 12    | 72, 216                             | 1 +- .005 above 1e-2       | bfloat16, float32
quintic5      | 5     | 30, 90                              | .68 .. 1.21 above 1e-2     | bfloat16, float32
polar_express | 5     | 30, 90                              | .84 .. 1.15 above 1e-3     | bfloat16, float32
gram          | 12    | 72, 126                             | as quintic12               | float16, float32
exact         | SVD   | -                                   | 1, also the smallest       | float64 inside

"Above" is relative to |G|_F; smaller ones are not finished, and a zero one stays zero. A matrix that is not
square costs less by `gram`, which iterates on the short side's Gram matrix and multiplies back three times;
there rounding errors are squared, and in bfloat16 the iteration may diverge, so that precision is refused.
"""
import torch
from torch import Tensor

from .polar_express import composition

# Steps (a, b, c) of each polynomial method, with its source.
QUINTIC = (2.0, -1.5, 0.5)  # p(1) = 1, p'(1) = 0; bounded for |s| <= sqrt 2
COEFFICIENTS = {
    # The "simple quintic" of modded-nanogpt's track 3 and of aurora-release.
    # https://github.com/KellerJordan/modded-nanogpt records/track_3_optimization/train_gpt_simple.py
    "quintic12": (QUINTIC,) * 12,
    # Muon's original: steep at zero, does not converge to 1. https://kellerjordan.github.io/posts/muon/
    "quintic5": ((3.4445, -4.7750, 2.0315),) * 5,
    # arXiv 2505.16932, for [1e-3, 1] with cushion and safety .02 as in modded-nanogpt's track 1.
    "polar_express": composition(lower=1e-3, steps=5),
}
PRECISIONS = {None: None, **{name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}}
CPU_LARGE = 2**19  # entries of a large matrix, see batched
CPU_STRIP = 256  # its rows that syrk multiplies at once
UNSAFE = {"gram": "bfloat16"}  # method -> the precision in which it may diverge
# gram: the steps of quintic12 in three segments, X formed again between them; without that, eigenvalues that
# rounding made negative grow until they overflow. https://github.com/Dao-AILab/gram-newton-schulz
GRAM_SEGMENTS = ((QUINTIC,) * 4,) * 3


def polar(G: Tensor, method: str = "quintic12", dtype: torch.dtype | None = None) -> Tensor:
    """The polar factor of each matrix of `G` (..., rows, cols), in G's dtype; G is not written.

    dtype: precision of the iteration; None is bfloat16 (`gram`: float16) on CUDA and float32 (float64 for
    float64) elsewhere. The result does not depend on the scale of G; a zero matrix gives zero.
    Raises ValueError for an unknown method, and for `gram` in bfloat16.
    """
    if method not in METHODS:
        raise ValueError(f"polar: unknown method {method!r}; known: {', '.join(METHODS)}")
    if method in OTHERS:
        return OTHERS[method](G, dtype).to(G.dtype)
    X = newton_schulz(unit(G, dtype or iteration_dtype(G)), COEFFICIENTS[method])
    return X.reshape(G.shape).to(G.dtype)


def check_method(stage: str, method: str, precision: str | None) -> None:
    """ValueError of a stage for an unknown method or precision, or a pair of them that is not safe."""
    for what, value, known in (("polar", method, METHODS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{stage}: unknown {what} {value!r}; known: {', '.join(map(str, known))}")
    if precision is not None and precision == UNSAFE.get(method):
        raise ValueError(f"{stage}: {method} may diverge in {precision}; use float16 or float32, or another "
                         "method")


def iteration_dtype(G: Tensor, half: torch.dtype = torch.bfloat16) -> torch.dtype:
    """The precision of the iteration where none is asked for: `half` on CUDA."""
    return half if G.is_cuda else torch.promote_types(G.dtype, torch.float32)


def unit(G: Tensor, dtype: torch.dtype) -> Tensor:
    """G / |G|_F as (batch, rows, cols) in `dtype`; the norm is taken in float32, before any cast."""
    X = by_largest(G.reshape(-1, *G.shape[-2:]))
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    return (X / norm.clamp(min=1)).to(dtype)  # the norm is at least 1, or that of a zero matrix


def by_largest(G: Tensor) -> Tensor:
    """G in float32 or more, over its largest entry: its squares then neither vanish nor overflow, and G's
    scale does not matter. A zero matrix stays zero."""
    X = G.to(torch.promote_types(G.dtype, torch.float32))
    # On a CPU ten times as fast as vector_norm(ord=inf).
    largest = torch.maximum(X.amax((-2, -1), keepdim=True), -X.amin((-2, -1), keepdim=True))
    return X / largest.clamp(min=torch.finfo(X.dtype).tiny)


def newton_schulz(X: Tensor, coefficients) -> Tensor:
    """The quintics (a, b, c) applied one after the other to the singular values of X (batch, rows, cols)."""
    if X.size(-2) > X.size(-1):
        return transposed(newton_schulz(transposed(X), coefficients))
    return batched(lambda X: quintics(X, coefficients), X)


def transposed(X: Tensor) -> Tensor:
    """X.mT, contiguous; on a CPU in strips that fit its first cache, two to four times as fast."""
    return torch.cat(X.mT.split(128, -1), -1) if X.device.type == "cpu" else X.mT.contiguous()


def batched(work, X: Tensor) -> Tensor:
    """work(X) for the batch in one go; on a CPU for large matrices one by one, each as (rows, cols): their
    bfloat16 products are up to three times as fast so, and syrk multiplies less (without autograd)."""
    if X.device.type == "cpu" and X[0].numel() >= CPU_LARGE and not X.requires_grad:
        found = [work(x) for x in X]
        return torch.stack(found) if len(X) > 1 else found[0][None]
    return work(X)


def quintics(X: Tensor, coefficients) -> Tensor:
    """X <- a X + (b A + c A^2) X, A = XX', for each (a, b, c); X is not tall."""
    for a, b, c in coefficients:
        A = syrk(X)
        X = addmm(X, syrk(A, A, b, c), X, a)
    return X


def addmm(C: Tensor, A: Tensor, B: Tensor, beta: float) -> Tensor:
    """beta C + A B, for matrices or batches of them."""
    return (torch.addmm if C.ndim == 2 else torch.baddbmm)(C, A, B, beta=beta)


def syrk(X: Tensor, C: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """XX', or beta C + alpha XX' for a symmetric C. Of a single matrix, which is large and on a
    CPU (see batched), only blocks on and below the diagonal are multiplied: two thirds of 768 rows' work."""
    if X.ndim > 2:
        return X @ X.mT if C is None else torch.baddbmm(C, X, X.mT, beta=beta, alpha=alpha)
    found = X.new_empty(len(X), len(X))
    for i in range(0, len(X), CPU_STRIP):
        strip, upto = slice(i, i + CPU_STRIP), slice(i + CPU_STRIP)
        if C is None:
            torch.mm(X[strip], X[upto].mT, out=found[strip, upto])
        else:
            torch.addmm(C[strip, upto], X[strip], X[upto].mT, beta=beta, alpha=alpha, out=found[strip, upto])
        found[:i, strip] = found[strip, :i].mT
    return found


def exact(G: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The polar factor by the SVD in float64; `dtype` does not apply."""
    U, S, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    tiny = S[..., :1] * 1e-12  # a zero singular value has no direction: it stays zero, as it does elsewhere
    return U * (S > tiny).unsqueeze(-2) @ Vh


def gram(G: Tensor, dtype: torch.dtype | None) -> Tensor:
    """quintic12 on the Gram matrix of the short side; ValueError in bfloat16."""
    if dtype == torch.bfloat16:
        raise ValueError("polar: gram may diverge in bfloat16; use float16 or float32, or another method")
    X = unit(G, dtype or iteration_dtype(G, torch.float16))
    if X.size(-2) == X.size(-1):
        X = newton_schulz(X, COEFFICIENTS["quintic12"])  # for a square matrix the plain form is cheaper
    else:
        X = gram_newton_schulz(X) if X.size(-2) > X.size(-1) else gram_newton_schulz(X.mT).mT
    return X.reshape(G.shape)


def gram_newton_schulz(X: Tensor) -> Tensor:
    """quintic12 of a tall X by its Gram matrix R = X'X: Q <- Q Z and R <- Z R Z with Z = aI + bR + cR^2, and
    X <- X Q at the end of each segment.

    R is kept symmetric, and a Q, a R are added by the multiplication itself, in its accumulator's float32.
    """
    for segment in GRAM_SEGMENTS:
        R, Q = X.mT @ X, None
        for i, (a, b, c) in enumerate(segment):
            W = torch.baddbmm(R, R, R, beta=b, alpha=c)
            if Q is None:
                Q = W.clone()
                Q.diagonal(dim1=-2, dim2=-1).add_(a)
            else:
                Q = torch.baddbmm(Q, Q, W, beta=a)
            if i + 1 < len(segment):
                R = torch.baddbmm(R, W, R, beta=a)
                R = torch.baddbmm(R, R, W, beta=a)
                R = (R + R.mT) / 2
        X = X @ Q
    return X


OTHERS = {  # methods that are no polynomial in G
    "gram": gram,
    "exact": exact,
}
METHODS = (*COEFFICIENTS, *OTHERS)
