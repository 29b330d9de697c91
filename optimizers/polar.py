"""The polar factor of a matrix, by Newton-Schulz iteration.

polar(G) = U V' for the thin SVD G = U S V': the nearest matrix with orthonormal columns (rows, if wide).
Newton-Schulz applies an odd polynomial p(s) = a s + b s^3 + c s^5 to the singular values, T times, starting
from G / |G|_F so that all of them lie in (0, 1]:

    tall:  A = X'X,  X <- a X + X (b A + c A^2)          wide:  A = XX',  X <- a X + (b A + c A^2) X

method    | steps | matmul FLOPs / n^3 of n x n, 4n x n | singular values end in | safe precisions
----------|-------|-------------------------------------|------------------------|--------------------
quintic12 | 12    | 72, 216                             | 1 +- .005 above 1e-2   | bfloat16, float32
quintic5  | 5     | 30, 90                              | 0.68..1.13 above 1e-2  | bfloat16, float32
exact     | SVD   | -                                   | 1, also the smallest   | computed in float64

Singular values below about 3e-4 of |G|_F are not finished by quintic12, and a zero one stays zero.
"""
import torch
from torch import Tensor

# Steps (a, b, c) of each polynomial method, with its source.
COEFFICIENTS = {
    # The "simple quintic" of modded-nanogpt's track 3 and of aurora-release: p(1) = 1, p'(1) = 0.
    # https://github.com/KellerJordan/modded-nanogpt records/track_3_optimization/train_gpt_simple.py
    "quintic12": ((2.0, -1.5, 0.5),) * 12,
    # Muon's original: steep at zero, does not converge to 1. https://kellerjordan.github.io/posts/muon/
    "quintic5": ((3.4445, -4.7750, 2.0315),) * 5,
}
METHODS = (*COEFFICIENTS, "exact")


def polar(G: Tensor, method: str = "quintic12", dtype: torch.dtype | None = None) -> Tensor:
    """The polar factor of each matrix of `G` (..., rows, cols), in G's dtype; G is not written.

    dtype: precision of the iteration; None is bfloat16 on CUDA and float32 (float64 for float64) elsewhere.
    The result does not depend on the scale of G; a zero matrix gives zero.
    Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"polar: unknown method {method!r}; known: {', '.join(METHODS)}")
    if method == "exact":
        U, S, Vh = torch.linalg.svd(G.double(), full_matrices=False)
        tiny = S[..., :1] * 1e-12  # a zero singular value has no direction: it stays zero, as it does below
        return (U * (S > tiny).unsqueeze(-2) @ Vh).to(G.dtype)
    if dtype is None:
        dtype = torch.bfloat16 if G.is_cuda else torch.promote_types(G.dtype, torch.float32)
    rows, cols = G.shape[-2:]
    X = G.reshape(-1, rows, cols).to(torch.promote_types(G.dtype, torch.float32))
    # The norm is taken in float32 before any cast, clamped only against exact zero: scale must not matter.
    norm = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
    X = (X / norm.clamp(min=torch.finfo(X.dtype).tiny)).to(dtype)
    for a, b, c in COEFFICIENTS[method]:
        A = X.mT @ X if rows > cols else X @ X.mT  # the Gram matrix of the short side
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, X, B, beta=a) if rows > cols else torch.baddbmm(X, B, X, beta=a)
    return X.view(G.shape).to(G.dtype)
