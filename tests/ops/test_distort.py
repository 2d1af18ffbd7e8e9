"""Distortions against Pillow, and TensorFlow's own operations in the quirks of their style."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vitjax.ops.distort import NUMBER, OPERATIONS, STYLES, distort

H, W = 29, 31
FILL = (124, 116, 104)
GEOMETRY = {
    "shear_x": lambda a: (1, a, 0, 0, 1, 0),
    "shear_y": lambda a: (1, 0, 0, a, 1, 0),
    "translate_x": lambda a: (1, 0, a, 0, 1, 0),
    "translate_y": lambda a: (1, 0, 0, 0, 1, a),
}


@functools.cache
def picture():
    """Smooth in one channel, noisy in another, of few values in the third."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (H, W, 3))
    image[..., 0] = (7 * np.arange(H)[:, None] + 2 * np.arange(W)[None, :]) % 256
    image[..., 2] = 40 + image[..., 2] // 4
    return image.astype(np.uint8)


@functools.cache
def jitted(style, sampling):
    run = functools.partial(distort, fill=FILL, style=style, sampling=sampling)
    return jax.jit(run)


def ours(name, amount, style="pillow", sampling="nearest", place=(0.5, 0.5), image=None):
    image = picture() if image is None else image
    run = jitted(style, sampling)
    out = np.asarray(
        run(
            image.astype(np.float32), jnp.int32(NUMBER[name]), jnp.float32(amount), jnp.array(place)
        )
    )
    np.testing.assert_array_equal(out, np.rint(out))
    return out.astype(np.int32)


def pillow(name, amount, sampling):
    image, fill = Image.fromarray(picture()), FILL
    enhancers = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return enhancers[name](image).enhance(amount)
    if name == "solarize_add":
        return image.point([min(255, i + int(amount)) if i < 128 else i for i in range(256)] * 3)
    if name == "rotate":
        return image.rotate(amount, resample=sampling, fillcolor=fill)
    if name in GEOMETRY:
        rows = GEOMETRY[name](amount)
        return image.transform(image.size, Image.AFFINE, rows, resample=sampling, fillcolor=fill)
    functions = {
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "posterize": lambda image: ImageOps.posterize(image, int(amount)),
        "solarize": lambda image: ImageOps.solarize(image, int(amount)),
    }
    return functions[name](image)


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *(("auto_contrast", 0), ("equalize", 0), ("invert", 0), ("posterize", 8)),
        *(("posterize", 4), ("posterize", 1), ("solarize", 256), ("solarize", 77)),
        *(("solarize_add", 110), ("color", 0.1), ("color", 1.9), ("contrast", 0.46)),
        *(("contrast", 1.9), ("brightness", 0.37), ("brightness", 1.55)),
        *(("sharpness", 0.1), ("sharpness", 1.9)),
    ],
)
def test_colours_are_pillows(name, amount):
    away = np.abs(ours(name, amount) - np.asarray(pillow(name, amount, None), np.int32))
    assert away.max() <= 1 and (away > 0).mean() < 0.02


@pytest.mark.parametrize("sampling", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *(("rotate", 30), ("rotate", -13.7), ("shear_x", 0.3), ("shear_x", -0.17)),
        *(("shear_y", 0.24), ("translate_x", 9.3), ("translate_x", -13), ("translate_y", 5)),
    ],
)
def test_geometry_is_pillows(name, amount, sampling):
    method = {"nearest": Image.Resampling.NEAREST, "linear": Image.Resampling.BILINEAR}[sampling]
    away = np.abs(ours(name, amount, sampling=sampling) - np.asarray(pillow(name, amount, method)))
    assert (away.max(axis=2) > 1).mean() < 0.003  # a coordinate on an edge may fall either way


@pytest.mark.parametrize("style", STYLES)
def test_identity_and_neutral_amounts_change_nothing(style):
    for name, amount in (("identity", 3), ("rotate", 0), ("color", 1), ("sharpness", 1)):
        np.testing.assert_array_equal(ours(name, amount, style), picture())


def test_cutout_is_a_square_that_the_border_cuts():
    out = ours("cutout", 4, place=(0.0, 20.2 / W))
    filled = (out == FILL).all(axis=2)
    want = np.zeros((H, W), bool)
    want[0:4, 16:24] = True
    np.testing.assert_array_equal(filled, want)
    np.testing.assert_array_equal(out[~want], picture()[~want])


def tensorflow(name, factor):
    """The formulas of EfficientNet's autoaugment code on TensorFlow's operations."""
    tf = pytest.importorskip("tensorflow")
    image = tf.constant(picture())
    degenerate = {
        "color": lambda: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)),
        "contrast": lambda: tf.cast(tf.fill(image.shape, min(H * W // 256, 255)), tf.uint8),
    }[name]()
    degenerate, image = (tf.cast(x, tf.float32) for x in (degenerate, image))
    blended = degenerate + factor * (image - degenerate)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8).numpy().astype(np.int32)


@pytest.mark.slow  # 5 s to import TensorFlow
@pytest.mark.parametrize(("name", "factor"), [("color", 1.9), ("color", 0.3), ("contrast", 1.9)])
def test_quirks_are_tensorflows(name, factor):
    away = np.abs(ours(name, factor, "tf") - tensorflow(name, factor))
    assert away.max() <= 1 and (away > 0).mean() < 0.02


def test_the_styles_differ_where_they_are_said_to():
    flat = np.full((H, W, 3), 90, np.uint8)
    shade = ours("contrast", 0.0, "tf", image=flat)[0, 0, 0]
    assert shade == H * W // 256  # not 90: the quirk
    assert ours("contrast", 0.0, image=flat)[0, 0, 0] == 90
    for level in (0.3, -0.3):  # TensorFlow's shear turns about the first pixel: its row stays
        np.testing.assert_array_equal(ours("shear_x", level, "tf")[0], picture()[0])


def test_a_batch_is_its_images_one_by_one():
    run = jax.vmap(jitted("pillow", "nearest"), (None, 0, 0, None))
    numbers = jnp.arange(len(OPERATIONS))
    amounts = jnp.full(len(numbers), 3.0)
    got = run(picture().astype(np.float32), numbers, amounts, jnp.array((0.5, 0.5)))
    for number, each in enumerate(got):
        np.testing.assert_array_equal(each, ours(OPERATIONS[number], 3.0))
