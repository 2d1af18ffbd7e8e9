"""Positions against formulas written entry by entry, and resampling against SciPy and Pillow."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from vitjax.ops.position import RESAMPLINGS, resample, rotary_2d, rotate, sincos_2d


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


TABLE = np.random.RandomState(0).normal(size=(6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize(("h", "w"), [(9, 4), (3, 11), (1, 5)])
def test_linear_is_scipys_zoom(h, w):
    want = scipy.ndimage.zoom(TABLE, (h / 6, w / 5, 1), order=1)
    np.testing.assert_allclose(resample(jnp.asarray(TABLE), h, w, "linear"), want, atol=1e-6)


@pytest.mark.parametrize(("h", "w"), [(9, 4), (3, 11)])
def test_cubic_antialias_is_pillows_bicubic(h, w):
    channels = [
        Image.fromarray(np.ascontiguousarray(TABLE[..., c])).resize((w, h), Image.BICUBIC)
        for c in range(3)
    ]
    want = np.stack(channels, axis=-1)
    got = resample(jnp.asarray(TABLE), h, w, "cubic_antialias")
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_a_table_on_its_own_grid_is_left_alone(method):
    np.testing.assert_array_equal(resample(jnp.asarray(TABLE), 6, 5, method), TABLE)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_resampling_keeps_what_is_constant(method):
    flat = jnp.full((4, 7, 2), 3.0)
    np.testing.assert_allclose(resample(flat, 9, 3, method), 3.0, rtol=1e-6)


def test_rotary_angles_are_the_formula():
    h, w, dim = 2, 3, 8
    want = np.zeros((h, w, dim // 2))
    for y in range(h):
        for x in range(w):
            for k in range(dim // 4):
                period = 100.0 ** (4 * k / dim)
                want[y, x, k] = 2 * math.pi * (2 * (y + 0.5) / h - 1) / period
                want[y, x, k + dim // 4] = 2 * math.pi * (2 * (x + 0.5) / w - 1) / period
    np.testing.assert_allclose(rotary_2d(h, w, dim), want, rtol=1e-6)


def test_rotated_scores_depend_on_the_offset_alone():
    """arXiv:2104.09864, eq. 11: the product of a query and a key sees only their distance."""
    rng = np.random.RandomState(0)
    q, k = (np.tile(rng.normal(size=(1, 1, 2, 8)), (1, 2 + 20, 1, 1)) for _ in range(2))
    angles = rotary_2d(4, 5, 8)
    q, k = (np.asarray(rotate(jnp.asarray(x, jnp.float32), angles)) for x in (q, k))
    scores = np.einsum("nhd,mhd->hnm", q[0, 2:], k[0, 2:]).reshape(2, 4, 5, 4, 5)
    np.testing.assert_allclose(scores[:, 0, 0, 1, 2], scores[:, 2, 1, 3, 3], atol=1e-5)
    assert np.abs(scores[:, 0, 0, 1, 2] - scores[:, 0, 0, 2, 1]).max() > 1e-2
    np.testing.assert_array_equal(q[:, 0], q[:, 1])  # what stands before the patches is not turned
    norms = np.linalg.norm(q, axis=-1)
    np.testing.assert_allclose(norms, np.broadcast_to(norms[:, :1], norms.shape), rtol=1e-5)


def test_a_head_that_cannot_be_turned_is_refused():
    with pytest.raises(ValueError, match=r"multiple of 4, got 6: change encoder\.heads"):
        rotary_2d(2, 3, 6)
