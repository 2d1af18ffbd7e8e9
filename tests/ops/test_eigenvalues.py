"""Eigenvalues in two loops, beside NumPy's."""

import jax
import numpy as np
import pytest

from vitjax.ops.eigenvalues import eigenvalues


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
    got = jax.jit(eigenvalues)(matrix.astype(np.float32))
    scale = max(np.abs(matrix).max(), 1e-30)
    np.testing.assert_allclose(got, np.linalg.eigvalsh(matrix), atol=1e-6 * len(matrix) * scale)
