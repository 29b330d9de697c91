"""The polar factor: against the SVD, on hostile input, in every precision a method accepts."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers import Polar, polar
from optimizers.polar import COEFFICIENTS, METHODS
from tests.support.matrices import SQUARE, TALL, WIDE, hostile, matrix, spectra

PRECISIONS = {"quintic12": ("float32", "bfloat16"), "quintic5": ("float32", "bfloat16"),
              "polar_express": ("float32", "bfloat16"), "gram": ("float32", "float16"), "exact": ("float32",)}


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), cols=st.integers(1, 40), batch=st.integers(1, 3), scale=st.integers(-12, 12))
def test_polar_is_the_svds_factor_at_any_shape_and_scale(rows, cols, batch, scale):
    G = torch.randn(batch, rows, cols, generator=torch.Generator().manual_seed(rows * 41 + cols))
    U, S, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    if (S[:, -1] / S[:, 0]).min() < 1e-2:
        return  # quintic12 does not promise the smallest singular values
    for method in ("quintic12", "gram", "exact"):
        assert torch.allclose(polar(G * 10.0**scale, method), (U @ Vh).float(), atol=1e-3), method


@pytest.mark.parametrize("method, low, high", [("quintic12", 0.99, 1.01), ("quintic5", 0.6, 1.21),
                                               ("polar_express", 0.84, 1.15), ("gram", 0.99, 1.01)])
@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
def test_singular_values(method, low, high, shape):
    for dtype in PRECISIONS[method]:
        slack = 0.02 if dtype == "bfloat16" else 0
        G = matrix(shape) if shape != SQUARE else torch.eye(32) + 0.1 * matrix(shape)
        s = torch.linalg.svdvals(polar(G, method, getattr(torch, dtype)))
        assert low - slack < s.min() and s.max() < high + slack


@pytest.mark.parametrize("method", METHODS)
def test_hostile_matrices_stay_bounded_in_every_precision(method):
    bound = 1.21 if method == "quintic5" else 1.2  # its polynomial peaks at 1.2024
    for dtype in PRECISIONS[method]:
        for name, G in {**hostile(128, 32), **spectra(128, 32)}.items():
            for side in (G, G.T):
                s = torch.linalg.svdvals(polar(side, method, getattr(torch, dtype)).float())
                assert s.isfinite().all() and s.max() < bound, (name, dtype, float(s.max()))


@pytest.mark.parametrize("method", METHODS)
def test_batches_transposes_and_inputs(method):
    G = torch.stack([matrix(TALL, seed) for seed in range(6)]).view(2, 3, *TALL)
    kept = G.clone()
    U = polar(G, method)
    assert torch.equal(G, kept) and U.shape == G.shape
    for i in range(2):
        for j in range(3):
            assert torch.allclose(U[i, j], polar(G[i, j], method), atol=1e-5)
    assert torch.allclose(polar(G.mT, method), U.mT, atol=1e-4)
    assert polar(G.bfloat16(), method).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(2, 600, 1200), (1, 1500, 400)])
def test_large_matrices_on_a_cpu_which_go_one_by_one_and_in_strips(shape):
    G = matrix(shape)
    exact = polar(G, "exact")
    assert torch.allclose(polar(G), exact, atol=1e-3)
    assert torch.equal(polar(G)[0], polar(G[0]))
    assert (polar(G, dtype=torch.bfloat16) - exact).norm() < 0.02 * exact.norm()
    assert torch.allclose(polar(G.requires_grad_()), exact, atol=1e-3)  # with autograd on


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (1024, 640)])
def test_it_can_be_differentiated(method, shape):
    G = matrix(shape).double().requires_grad_()
    weights = matrix(shape, 9).double()
    grad, = torch.autograd.grad((polar(G, method) * weights).sum(), G)
    assert grad.isfinite().all() and grad.abs().max() > 0
    assert abs((grad * G).sum()) < 1e-6 * grad.norm() * G.norm()  # the result does not depend on G's scale


@pytest.mark.parametrize("method", METHODS)
def test_zero_and_low_rank(method):
    assert not polar(torch.zeros(3, 8, 5), method).any()
    s = torch.linalg.svdvals(polar(torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 6)), method))
    assert 0.6 < s[0] < 1.2 and s[1:].max() < 1e-2


def test_polar_express_is_the_published_composition():
    # modded-nanogpt's list: optimal_composition(1e-3, 5, safety .02, cushion .02) of the paper's code
    assert [c for step in COEFFICIENTS["polar_express"] for c in step] == pytest.approx([
        8.156554524902461, -22.48329292557795, 15.878769915207462,
        4.042929935166739, -2.808917465908714, 0.5000178451051316,
        3.8916678022926607, -2.772484153217685, 0.5060648178503393,
        3.285753657755655, -2.3681294933425376, 0.46449024233003106,
        2.3465413258596377, -1.7097828382687081, 0.42323551169305323], abs=1e-12)


def test_unknown_names_and_unsafe_precisions_are_refused():
    with pytest.raises(ValueError, match="newton.*known: quintic12"):
        polar(torch.eye(3), "newton")
    with pytest.raises(ValueError, match="known: quintic12"):
        Polar("newton")
    with pytest.raises(ValueError, match="gram.*bfloat16.*float16"):
        polar(torch.ones(4, 3), "gram", torch.bfloat16)
