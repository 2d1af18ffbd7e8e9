"""Colour operations against Pillow, colorsys and a NumPy writing of torchvision's formulas."""

import colorsys
import functools

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vitjax.ops import colour


def picture(seed=0, shape=(9, 11, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        (colour.BRIGHTNESS, ImageEnhance.Brightness),
        (colour.CONTRAST, ImageEnhance.Contrast),
        (colour.SATURATION, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_adjustments_mean_what_pillow_means(operation, enhance, factor):
    image = picture()
    want = np.asarray(enhance(Image.fromarray(image)).enhance(factor), np.float32)
    got = colour.adjust(image.astype(np.float32) / 255, factor, operation)
    np.testing.assert_allclose(255 * got, want, atol=2.0)  # Pillow rounds its grey and its result


@pytest.mark.parametrize("turn", [-0.5, -0.13, 0.0, 0.21, 0.4])
def test_hue_turns_as_in_colorsys(turn):
    image = picture().astype(np.float32) / 255
    image[0, 0], image[0, 1] = 0.5, (1.0, 0.0, 0.0)  # a grey has no hue; a pure colour

    def turned(pixel):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)

    want = np.array([[turned(pixel) for pixel in row] for row in image.astype(np.float64)])
    np.testing.assert_allclose(colour.shift_hue(image, turn), want, atol=1e-5)


def blend(image, target, factor):
    return np.clip(factor * image + (1 - factor) * target, 0, 1)


def published(image, order, factors, turn):
    """torchvision's adjust_* one after another, float64."""
    for operation in order:
        luma = image @ np.array([0.2989, 0.587, 0.114])
        if operation == colour.HUE:
            image = np.asarray(colour.shift_hue(image.astype(np.float32), turn), np.float64)
        elif operation == colour.BRIGHTNESS:
            image = blend(image, 0.0, factors[0])
        elif operation == colour.CONTRAST:
            image = blend(image, luma.mean(), factors[1])
        else:
            image = blend(image, luma[..., None], factors[2])
    return image


@pytest.mark.parametrize("hue", [0.0, 0.3])
def test_jitter_applies_the_drawn_factors_in_the_drawn_order(hue):
    image = picture(1).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), 40)
    jitter = functools.partial(
        colour.color_jitter, brightness=0.4, contrast=1.2, saturation=0.7, hue=hue
    )
    got = jax.jit(jax.vmap(jitter, in_axes=(None, 0)))(image, keys)
    low, high = np.array([0.6, 0.0, 0.3]), np.array([1.4, 2.2, 1.7])
    orders = set()
    for view, key in zip(got, keys, strict=True):
        uniform = np.asarray(jax.random.uniform(key, (8,)))
        order = tuple(np.argsort(uniform[4 : 8 if hue else 7]).tolist())
        factors = low + (high - low) * uniform[:3]
        turn = hue * (2 * uniform[3] - 1)
        orders.add(order)
        want = published(image.astype(np.float64), order, factors, turn)
        np.testing.assert_allclose(view, want, atol=2e-5)
    assert len(orders) == 6 if not hue else len(orders) > 12


def test_strength_zero_changes_nothing():
    image = picture().astype(np.float32) / 255
    np.testing.assert_allclose(colour.color_jitter(image, jax.random.key(0)), image, atol=1e-6)


def test_grey_is_the_luma_of_pillow():
    image = picture()
    want = np.asarray(Image.fromarray(image).convert("L").convert("RGB"), np.float32)
    got = colour.random_grey(image.astype(np.float32) / 255, jax.random.key(0), 1.0)
    np.testing.assert_allclose(255 * got, want, atol=0.6)


@pytest.mark.parametrize("threshold", [0, 100, 128, 255])
def test_solarize_inverts_what_pillow_inverts(threshold):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    want = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold))
    got = jax.jit(colour.solarize)(image.astype(np.float32) / 255, threshold)
    np.testing.assert_array_equal(np.rint(255 * np.asarray(got)), want)


@pytest.mark.parametrize("operation", [colour.random_grey, colour.random_solarize])
def test_chance_touches_the_given_share_of_images(operation):
    image = picture(shape=(3, 4, 3)).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(3), 2000)
    got = jax.jit(jax.vmap(operation, (None, 0, None)))(image, keys, 0.3)
    touched = (np.asarray(got) != image).any(axis=(1, 2, 3))
    assert abs(touched.mean() - 0.3) < 0.04


def test_normalize_uses_units_of_0_to_1():
    images = picture(shape=(2, 5, 4, 3)).astype(np.float32) / 255
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    want = (images.astype(np.float64) - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(colour.normalize(images, mean, std), want, atol=1e-6)
