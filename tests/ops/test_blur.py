"""Blurs against SciPy's correlation with torchvision's kernel, and against Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage, stats

from vitjax.ops import blur

H, W = 19, 23


def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (H, W, 3), np.uint8)


def published(image, sigma, taps):
    """torchvision's gaussian_blur in float64; SciPy's "mirror" is its padding."""
    at = np.linspace(-(taps - 1) / 2, (taps - 1) / 2, taps)
    kernel = np.exp(-0.5 * (at / sigma) ** 2)
    kernel /= kernel.sum()
    for dim in (0, 1):
        image = ndimage.correlate1d(image, kernel, axis=dim, mode="mirror")
    return image


@pytest.mark.parametrize(("sigma", "taps"), [(0.1, 9), (1.3, 9), (2.0, 9), (2.0, 5)])
def test_gaussian_is_torchvisions(sigma, taps):
    image = picture() / 255
    got = blur.gaussian_blur(image.astype(np.float32), sigma, taps)
    np.testing.assert_allclose(got, published(image, sigma, taps), atol=1e-6)


@pytest.mark.parametrize("radius", [0.7, 1.0, 1.4, 1.5, 2.0])
def test_pillow_blur_is_pillows(radius):
    image = picture()
    want = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)), np.float64)
    got = 255 * np.asarray(blur.pillow_blur(image.astype(np.float32) / 255, radius))
    away = got - want
    assert np.abs(away).max() < 2.0 and away.std() < 0.6  # Pillow rounds six times, halves upwards


def test_sigma_is_uniform_and_the_share_is_kept():
    impulse = np.zeros((21, 21, 3), np.float32)
    impulse[10, 10] = 1.0
    run = jax.jit(jax.vmap(lambda key: blur.random_gaussian_blur(impulse, key, 0.4, (0.5, 1.5))))
    row = np.asarray(run(jax.random.split(jax.random.key(5), 2000)))[:, 10, 7:14, 0]
    touched = row[:, 3] < 1.0
    assert abs(touched.mean() - 0.4) < 0.04
    row = row[touched]
    sigma = np.sqrt(0.5 / np.log(row[:, 3] / row[:, 4]))  # neighbours differ by exp(-1 / 2 sigma^2)
    assert stats.kstest(sigma, stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
