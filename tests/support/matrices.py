"""Matrices that the optimizer tests share: shapes, generic ones, a hostile set, and a few to be trained."""
import torch

from optimizers import Aurora

TALL, WIDE, SQUARE = (96, 24), (24, 96), (32, 32)


def matrix(shape, seed=0, uneven=1.0):
    """A random matrix whose rows differ in scale (lognormal, sigma = uneven)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g) * (uneven * torch.randn(*shape[:-1], 1, generator=g)).exp()


def spread(norms):
    """Standard deviation over mean."""
    return float(norms.std() / norms.mean())


def spectra(rows, cols):
    """name -> tall matrix: generic ones and ones whose columns are ill-conditioned, with uneven rows."""
    columns = torch.logspace(0, -3, cols)
    return {"iid": matrix((rows, cols), 1, 0.0), "rows": matrix((rows, cols), 2),
            "columns": matrix((rows, cols), 3, 0.0) * columns,
            "both": matrix((rows, cols), 4) * columns, "rows more": matrix((rows, cols), 5, 2.0) * columns}


def hostile(rows, cols):
    """name -> tall matrix on which a careless iteration fails."""
    coherent = matrix((rows, cols), 11, 0.0)
    tiny = 3 * rows // 4
    coherent[:tiny] = 1e-4 * (matrix((tiny, 1), 12, 0.0) * matrix((1, cols), 13, 0.0)
                              + 0.01 * matrix((tiny, cols), 14, 0.0))
    dead = matrix((rows, cols), 15, 0.0)
    dead[:2 * rows // 3] = 0
    low = matrix((rows, 4), 16) @ matrix((4, cols), 17)
    return {"coherent tiny rows": coherent, "dead rows": dead, "rank 4": low,
            "rank 4 and noise": low + 1e-3 * matrix((rows, cols), 18, 0.0),
            "rank 1": matrix((rows, 1), 19) @ matrix((1, cols), 20),
            "rows 1..1e-6": matrix((rows, cols), 21, 0.0) * torch.logspace(0, -6, rows)[:, None],
            "one row": torch.nn.functional.pad(matrix((1, cols), 22), (0, 0, 0, rows - 1)),
            "equal": torch.ones(rows, cols), "orthonormal": torch.linalg.qr(matrix((rows, cols), 23)).Q}


def three(optimizer=Aurora, **options):
    """({name: parameter}, an optimizer of them): a tall, a wide and another tall matrix."""
    shapes = ("tall", TALL), ("wide", WIDE), ("also", TALL)
    model = {name: torch.nn.Parameter(matrix(s, i)) for i, (name, s) in enumerate(shapes)}
    return model, optimizer(list(model.items()), lr=0.1, **options)


def give(model, seed):
    """A gradient to each parameter of `three`."""
    for i, p in enumerate(model.values()):
        p.grad = matrix(p.shape, 100 * seed + i)
