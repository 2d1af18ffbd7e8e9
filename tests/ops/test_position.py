"""The sin-cos table against a formula written entry by entry."""

import math

import numpy as np
import pytest

from vitjax.ops.position import sincos_2d


def test_sincos_is_the_formula():
    h, w, dim, temperature = 3, 5, 12, 100.0
    want = np.zeros((h, w, dim))
    for y in range(h):
        for x in range(w):
            for i in range(dim // 4):
                omega = temperature ** (-i / (dim // 4 - 1))
                want[y, x, i] = math.sin(x * omega)
                want[y, x, i + dim // 4] = math.cos(x * omega)
                want[y, x, i + dim // 2] = math.sin(y * omega)
                want[y, x, i + 3 * dim // 4] = math.cos(y * omega)
    got = sincos_2d(h, w, dim, temperature)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_sincos_depends_on_the_offset_alone():
    """The product of two positions is a function of their distance: what makes it an encoding."""
    table = np.asarray(sincos_2d(6, 7, 16))
    near = np.einsum("yxd,yxd->yx", table[:-2, :-3], table[2:, 3:])
    np.testing.assert_allclose(near, near[0, 0], rtol=1e-5)


@pytest.mark.parametrize("dim", [4, 10])
def test_a_width_that_does_not_fit_is_refused(dim):
    with pytest.raises(ValueError, match=f"got {dim}: change encoder.width"):
        sincos_2d(2, 3, dim)
