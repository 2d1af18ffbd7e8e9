"""Numbers that a self-supervised run reports of itself, on the accelerator."""

import jax
import numpy as np
import pytest

from vitjax.objectives import monitors
from vitjax.ops import statistics


def spectrum(*values):
    """A symmetric matrix with these eigenvalues."""
    n = len(values)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    return (turn * np.asarray(values)) @ turn.T


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[3.0]]),
        np.array([[1.0, 2.0], [2.0, -1.0]]),
        spectrum(-1.0, 0.0, 2.0),
        spectrum(*np.geomspace(1e-6, 1.0, 40)),
        spectrum(0.0, 0.0, 0.0, 1.0, 1.0, 1.0),
        np.diag([3.0, 1.0, 2.0, 2.0]),
        np.zeros((5, 5)),
        np.ones((6, 6)),
    ],
    ids=["one", "two", "three", "forty", "repeated", "diagonal", "zero", "rank one"],
)
def test_eigenvalues_are_those_of_numpy(matrix):
    got = jax.jit(monitors.eigenvalues)(matrix.astype(np.float32))
    scale = max(np.abs(matrix).max(), 1e-30)
    np.testing.assert_allclose(got, np.linalg.eigvalsh(matrix), atol=1e-6 * len(matrix) * scale)


@pytest.mark.parametrize("shape", [(50, 12), (12, 50)])
def test_rankme_on_a_tpu_is_that_of_numpy(shape, monkeypatch):
    rows = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 2, shape[1])

    def on_tpu(x, *, tpu, default):
        return tpu(x)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_tpu)
    got = monitors.rankme(rows.astype(np.float32))
    assert got == pytest.approx(statistics.rankme(rows), rel=1e-3)


def test_what_is_compiled_for_a_tpu_has_no_polar_decomposition():
    """Which libtpu takes minutes for."""
    rows = jax.ShapeDtypeStruct((300, 300), np.float32)

    def text(function):
        return jax.export.export(jax.jit(function), platforms=["tpu"])(rows).mlir_module()

    assert "eigh_work" in text(jax.numpy.linalg.eigvalsh)
    assert "eigh_work" not in text(monitors.rankme)
