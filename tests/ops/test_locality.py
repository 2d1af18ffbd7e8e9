"""Reach of attention, and its likeness to a convolution: closed forms, and sums entry by entry."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from vitjax.ops import locality
from vitjax.ops.quadratic import centres, quadratic_bias

B, H, SIDE = 3, 2, 4


def random_weights(prefix=0, seed=0):
    N = SIDE**2 + prefix
    scores = 2 * np.random.default_rng(seed).normal(size=(B, H, N, N))
    return softmax(scores, -1).astype(np.float32)


@pytest.mark.parametrize("prefix", [0, 3])
def test_sums_are_those_of_the_definition(prefix):
    weights = random_weights(prefix)
    A = weights[:, :, prefix:, prefix:].astype(float)
    A /= A.sum(-1, keepdims=True)
    got = locality.summed(weights, prefix)
    distance, offsets = np.zeros((B, H)), np.zeros((B, H, 2 * SIDE - 1, 2 * SIDE - 1))
    for i, j in np.ndindex(SIDE**2, SIDE**2):
        dy, dx = j // SIDE - i // SIDE, j % SIDE - i % SIDE
        distance += A[:, :, i, j] * math.hypot(dy, dx) / SIDE**2
        offsets[:, :, dy + SIDE - 1, dx + SIDE - 1] += A[:, :, i, j]
    np.testing.assert_allclose(got["distance"], distance, rtol=1e-5)
    np.testing.assert_allclose(got["offsets"], offsets, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["squares"], (A**2).sum((2, 3)), rtol=1e-5)

    a = np.zeros((H, SIDE**2, SIDE**2))
    for i, j in np.ndindex(SIDE**2, SIDE**2):
        dy, dx = j // SIDE - i // SIDE, j % SIDE - i % SIDE
        pairs = (SIDE - abs(dy)) * (SIDE - abs(dx))
        a[:, i, j] = offsets[:, :, dy + SIDE - 1, dx + SIDE - 1].sum(0) / (B * pairs)
    want = 1 - ((A - a[None]) ** 2).sum((0, 2, 3)) / ((A - A.mean()) ** 2).sum((0, 2, 3))
    share = locality.convolution_share(np.asarray(got["squares"]), np.asarray(got["offsets"]))
    np.testing.assert_allclose(share, want, atol=1e-5)
    assert (want < 0.3).all()


def test_even_attention_reaches_half_the_side():
    """0.52 of it: 116 of 224 pixels at 14 x 14 patches, 4.14 patches at 8 x 8."""
    assert locality.uniform_distance(14, 14) * 16 == pytest.approx(116, abs=0.5)
    assert locality.uniform_distance(8, 8) == pytest.approx(4.14, abs=0.01)
    square = (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15  # two points of a unit square
    assert locality.uniform_distance(40, 40) / 40 == pytest.approx(square, rel=2e-3)
    even = np.full((B, H, 64, 64), 1 / 64, np.float32)
    got = locality.summed(even, 0)
    np.testing.assert_allclose(got["distance"], locality.uniform_distance(8, 8), rtol=1e-5)
    share = locality.convolution_share(np.asarray(got["squares"]), np.asarray(got["offsets"]))
    np.testing.assert_array_equal(share, 1)


def test_a_flat_kernel_of_nine_taps_reaches_107_hundredths():
    """On a torus, where no tap is pushed back: (4 + 4 sqrt 2) / 9 patches."""
    at = np.stack(np.indices((7, 7)).reshape(2, -1), -1)
    near = np.abs((at[:, None] - at[None] + 3) % 7 - 3).max(-1) <= 1
    inner = (np.abs(at - 3).max(-1) <= 2)[:, None] & near
    weights = np.where(inner, 1 / 9, 0)[None, None]
    got = locality.summed(np.where(inner.any(1)[:, None], weights, np.eye(49)), 0)
    # 25 of the 49 queries have the whole kernel, the others look at themselves.
    assert got["distance"] * 49 / 25 == pytest.approx((4 + 4 * math.sqrt(2)) / 9, rel=1e-5)
    assert (4 + 4 * math.sqrt(2)) / 9 == pytest.approx(1.07, abs=0.005)


def test_heads_of_a_convolution_are_like_one_and_content_is_not():
    bias = quadratic_bias(centres(3, 3), 20.0, 9, 9)
    weights = np.broadcast_to(softmax(np.asarray(bias), -1), (B, 9, 81, 81))
    got = {key: np.asarray(value) for key, value in locality.summed(weights, 0).items()}
    share = locality.convolution_share(got["squares"], got["offsets"])
    assert share[4] == pytest.approx(1, abs=1e-6)  # the one that looks at itself
    assert (share > 0.8).all() and share[0] < 0.99  # pushed back at two borders
    # Other images, other offsets: no kernel explains it.
    keys = np.random.default_rng(0).integers(0, 81, (20, 1, 81))
    got = locality.summed(np.eye(81, dtype=np.float32)[keys], 0)
    got = {key: np.asarray(value) for key, value in got.items()}
    assert locality.convolution_share(got["squares"], got["offsets"])[0] < 0.05
