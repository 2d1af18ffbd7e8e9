"""Attention as convolution (arXiv:1911.03584), beside those of jax and SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from scipy.special import softmax

from vitjax.ops import quadratic
from vitjax.ops.attention import attention_weights
from vitjax.ops.position import relative_bias

B, H, W = 2, 9, 7


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@partial(jax.jit, static_argnums=2)
def convolution(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


attend = jax.jit(quadratic.attend, static_argnames=("padding", "implementation"))


def relative_error(got, want):
    want = np.asarray(want)
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize(
    "shape", [(3, 3, 5, 4), (3, 3, 4, 6), (5, 5, 2, 3), (1, 1, 3, 2), (2, 4, 3, 4)]
)
def test_padded_attention_is_the_convolution_with_padding_same(shape):
    x, kernel, bias = drawn(B, H, W, shape[2]), drawn(*shape, seed=1), drawn(shape[3], seed=2)
    layer = quadratic.init_as_convolution(kernel, bias)
    assert layer.value.shape == (shape[2], shape[0] * shape[1], min(shape[2:]))
    got = attend(layer, x, padding=max(shape[:2]) // 2)
    want = np.asarray(convolution(x, kernel, "SAME")) + bias
    assert relative_error(got, want) < 1e-6
    assert got.dtype == np.float32


@pytest.mark.parametrize("K", [3, 5])
def test_unpadded_attention_is_the_convolution_of_the_map_with_its_border_repeated(K):
    """SciPy's "nearest", one pair of channels after the other."""
    x, kernel = drawn(B, H, W, 3), drawn(K, K, 3, 4, seed=1)
    want = np.zeros((B, H, W, 4))
    for b, c, f in np.ndindex(B, 3, 4):
        taps = kernel[:, :, c, f].astype(float)
        want[b, :, :, f] += scipy.ndimage.correlate(x[b, :, :, c], taps, mode="nearest")
    got = attend(quadratic.init_as_convolution(kernel), x)
    assert relative_error(got, want) < 1e-6
    # It is not the one with zeros around, and differs from that at the border alone.
    zeros = np.asarray(convolution(x, kernel, "SAME"))
    inside = np.s_[:, K // 2 : -(K // 2), K // 2 : -(K // 2)]
    assert relative_error(zeros[inside], want[inside]) < 1e-6 < 0.1 < relative_error(zeros, want)


@pytest.mark.parametrize("alpha", [3.0, 5.0, 8.0, 12.0])
def test_a_duller_head_is_wrong_by_4_exp_minus_alpha(alpha):
    """What a head takes from the four neighbours of its key, each exp(-alpha) of that."""
    weights = attention_weights(
        jnp.zeros((1, 121, 1, 1)),
        jnp.zeros((1, 121, 1, 1)),
        bias=quadratic.quadratic_bias(np.zeros((1, 2)), alpha, 11, 11),
    )
    np.testing.assert_allclose(1 - weights[0, 0, 60, 60], 4 * np.exp(-alpha), rtol=0.15)
    x, kernel = drawn(B, 14, 14, 4), drawn(3, 3, 4, 4, seed=1)
    layer = quadratic.init_as_convolution(kernel, alpha=alpha)
    wrong = relative_error(attend(layer, x, padding=1), convolution(x, kernel, "SAME"))
    assert 0.3 * 4 * np.exp(-alpha) < wrong < 3 * 4 * np.exp(-alpha)


def test_from_sharp_on_only_the_digits_of_float32_are_missing():
    x, kernel = drawn(B, 14, 14, 8), drawn(3, 3, 8, 8, seed=1)
    layer = quadratic.init_as_convolution(kernel, alpha=quadratic.SHARP)
    wrong = relative_error(attend(layer, x, padding=1), convolution(x, kernel, "SAME"))
    assert wrong < 5e-7


def test_the_bias_is_the_formula_entry_by_entry():
    h, w, alpha = 3, 4, np.array([0.7, 2.0])
    centres = np.array([[1.0, -0.5], [0.0, 2.0]])
    want = np.zeros((2, h * w, h * w))
    for head, qy, qx, ky, kx in np.ndindex(2, h, w, h, w):
        away = np.array([ky - qy, kx - qx]) - centres[head]
        want[head, qy * w + qx, ky * w + kx] = -alpha[head] * (away**2).sum()
    got = quadratic.quadratic_bias(centres, alpha, h, w)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)
    # The same attention as scores linear in r.
    table = quadratic.quadratic_offsets(h, w) @ quadratic.linear_form(centres, alpha)
    np.testing.assert_allclose(
        softmax(relative_bias(table, h, w), -1), softmax(want, -1), atol=1e-6
    )


def test_a_nine_head_convit_starts_with_a_third_of_the_weight_on_the_centre():
    """Far from borders, at alpha .5, 1, 2, 4, 6: .16, .32, .62, .93, .99."""
    at = np.arange(-20, 21)
    for alpha, share in {0.5: 0.16, 1: 0.32, 2: 0.62, 4: 0.93, 6: 0.99}.items():
        want = 1 / np.exp(-alpha * (at[:, None] ** 2 + at**2)).sum()
        bias = quadratic.quadratic_bias(quadratic.centres(3, 3), alpha, 15, 15)
        weights = softmax(np.asarray(bias[8, 112]), -1)  # the head that looks down and right
        np.testing.assert_allclose(weights[128], want, rtol=1e-4)
        np.testing.assert_allclose(want, share, atol=0.006)


def test_a_stack_stays_one_and_learns():
    """Five layers without a pool between; and there is a gradient for all that is learned."""
    kernels = [drawn(3, 3, 6, 6, seed=s) / 7 for s in range(5)]
    x = want = drawn(B, H, W, 6)
    layers = [quadratic.init_as_convolution(kernel, drawn(6, seed=9)) for kernel in kernels]
    for layer, kernel in zip(layers, kernels, strict=True):
        x = jax.nn.relu(attend(layer, x, padding=1))
        want = np.maximum(np.asarray(convolution(want, kernel, "SAME")) + np.asarray(layer.bias), 0)
    assert np.asarray(want).max() > 0.1 and relative_error(x, want) < 1e-5

    @jax.jit
    @jax.grad
    def gradient(layer):
        return (quadratic.attend(layer, drawn(B, 4, 5, 6)) ** 2).sum()

    dull = quadratic.init_as_convolution(kernels[0], alpha=1.0)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in gradient(dull))
    sharp = gradient(layers[0])
    assert np.abs(sharp.centres).max() < 1e-4 < 1e-3 < np.abs(sharp.out).max()


def test_wider_heads_are_filled_with_zeros_and_any_kernel_of_attention_will_do():
    x, kernel = drawn(B, 4, 5, 3), drawn(3, 3, 3, 5, seed=1)
    layer = quadratic.init_as_convolution(kernel, head_width=8)
    assert layer.value.shape == (3, 9, 8) and layer.out.shape == (9, 8, 5)
    want = convolution(x, kernel, "SAME")
    for implementation in ("reference", "flash"):
        got = attend(layer, x, padding=1, implementation=implementation)
        assert relative_error(got, want) < 1e-5, implementation


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"head_width": 2},
            r"^head_width=2: a kernel of 3 to 4 channels needs heads of at least 3",
        ),
        ({"alpha": 0.0}, r"^alpha=0.0: expected above 0, and at least 18 to be exact$"),
    ],
)
def test_conditions_that_do_not_hold_are_one_line(settings, line):
    with pytest.raises(ValueError, match=line):
        quadratic.init_as_convolution(drawn(3, 3, 3, 4), **settings)
