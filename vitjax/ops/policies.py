"""Augmentation policies: which distortions an image gets, and how strong they are.

One image, float32 [S, S, 3] of whole numbers 0..255, and one key. A policy draws what it does
(`draw_...`: numbers of OPERATIONS, amounts and places, one per layer) and then does it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.batch import on_batch_shards
from vitjax.ops.blur import pillow_blur
from vitjax.ops.colour import grey, solarize
from vitjax.ops.distort import ENHANCEMENTS, GEOMETRY, NUMBER, distort, pixels, planes, switch
from vitjax.ops.mix import whole_below

GREY = (128.0, 128.0, 128.0)
MEAN_COLOUR = (124.0, 116.0, 104.0)  # ImageNet's, in levels
BLACK = (0.0, 0.0, 0.0)
TOP = 10.0  # magnitudes count tenths

PILLOW_OPERATIONS = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
TF_OPERATIONS = (*PILLOW_OPERATIONS, "cutout")

# arXiv:1805.09501, table 9: (operation, probability, magnitude) twice; - is no magnitude.
IMAGENET_POLICY = """
posterize .4 8  rotate .6 9 | solarize .6 5  auto_contrast .6 -
equalize .8 -  equalize .6 - | posterize .6 7  posterize .6 6
equalize .4 -  solarize .2 4 | equalize .4 -  rotate .8 8
solarize .6 3  equalize .6 - | posterize .8 5  equalize 1. -
rotate .2 3  solarize .6 8 | equalize .6 -  posterize .4 6
rotate .8 8  color .4 0 | rotate .4 9  equalize .6 -
equalize .0 -  equalize .8 - | invert .6 -  equalize 1. -
color .6 4  contrast 1. 8 | rotate .8 8  color 1. 2
color .8 8  solarize .8 7 | sharpness .4 7  invert .6 -
shear_x .6 5  equalize 1. - | color .4 0  equalize .6 -
equalize .4 -  solarize .2 4 | solarize .6 5  auto_contrast .6 -
invert .6 -  equalize 1. - | color .6 4  contrast 1. 8
equalize .8 -  equalize .6 -
"""


def randaugment_tf(image, key, *, layers=2, magnitude=10):
    """RandAugment (arXiv:1909.13719) as EfficientNet's TensorFlow code and big_vision have it.

    `layers` of 16 operations, each always applied, at one magnitude for all; geometry takes the
    nearest pixel and fills with grey. Solarize and posterize weaken as the magnitude grows.
    """
    drawn = draw_randaugment_tf(key, layers, magnitude)
    return _apply(image, drawn, fill=GREY, style="tf", sampling="nearest")


def draw_randaugment_tf(key, layers, magnitude):
    """(operations [L], amounts [L], places [L, 2]) for `distort`."""
    uniform = jax.random.uniform(key, (layers, 4))
    numbers = jnp.asarray([NUMBER[name] for name in TF_OPERATIONS])
    operations = numbers[whole_below(uniform[:, 0], len(TF_OPERATIONS))]
    share = magnitude / TOP
    amounts = _by_name(
        {
            "rotate": 30.0 * share,
            "posterize": int(4 * share),
            "solarize": int(256 * share),
            "solarize_add": int(110 * share),
            **dict.fromkeys(ENHANCEMENTS, 1.8 * share + 0.1),
            **dict.fromkeys(("shear_x", "shear_y"), 0.3 * share),
            **dict.fromkeys(("translate_x", "translate_y"), 100.0 * share),
            "cutout": int(40 * share),
        }
    )[operations]
    negative = _is(operations, GEOMETRY) & (uniform[:, 1] < 0.5)
    return operations, jnp.where(negative, -amounts, amounts), uniform[:, 2:]


def randaugment_timm(image, key, *, layers=2, magnitude=9, std=0.5, probability=0.5):
    """timm's RandAugment "rand-m9-mstd0.5-inc1", the one of DeiT and ConvNeXt.

    `layers` of 15 operations, each applied with a probability and at a magnitude of its own: normal
    with this mean and std, cut to 0..10; all strengthen as it grows. Geometry is bilinear (timm
    takes bilinear or bicubic by chance, or as its crop) and fills with the mean colour.
    """
    drawn = draw_randaugment_timm(key, layers, magnitude, std, probability)
    return _apply(image, drawn, fill=MEAN_COLOUR, style="pillow", sampling="linear", shares=True)


def draw_randaugment_timm(key, layers, magnitude, std, probability):
    """As `draw_randaugment_tf`; translations are shares of the side."""
    uniform_key, normal_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, (layers, 5))
    normal = jax.random.normal(normal_key, (layers,))
    numbers = jnp.asarray([NUMBER[name] for name in PILLOW_OPERATIONS])
    operations = numbers[whole_below(uniform[:, 0], len(PILLOW_OPERATIONS))]
    share = jnp.clip(magnitude + std * normal, 0.0, TOP) / TOP
    sign = jnp.where(uniform[:, 1] < 0.5, -1.0, 1.0)
    enhanced = jnp.maximum(0.1, 1.0 + sign * 0.9 * share)
    amounts = _by_layer(
        operations,
        {
            "rotate": sign * 30.0 * share,
            "posterize": 4.0 - jnp.floor(4.0 * share),
            "solarize": 256.0 - jnp.floor(256.0 * share),
            "solarize_add": jnp.floor(110.0 * share),
            **dict.fromkeys(ENHANCEMENTS, enhanced),
            **dict.fromkeys(("shear_x", "shear_y"), sign * 0.3 * share),
            **dict.fromkeys(("translate_x", "translate_y"), sign * 0.45 * share),
        },
    )
    kept = jnp.where(uniform[:, 2] < probability, operations, NUMBER["identity"])
    return kept, amounts, uniform[:, 3:]


def autoaugment(image, key):
    """AutoAugment's policy for ImageNet (arXiv:1805.09501), with torchvision's magnitudes: one of
    25 pairs of operations; nearest pixels, black outside."""
    drawn = draw_autoaugment(key)
    return _apply(image, drawn, fill=BLACK, style="pillow", sampling="nearest", shares=True)


def draw_autoaugment(key):
    """As `draw_randaugment_timm`, two layers."""
    operations, probabilities, amounts = (jnp.asarray(x) for x in _imagenet_policy())
    uniform = jax.random.uniform(key, (9,))
    pair = whole_below(uniform[0], len(operations))
    chosen, amounts = operations[pair], amounts[pair]
    negative = uniform[3:5] < 0.5
    amounts = jnp.where(_is(chosen, ENHANCEMENTS) & negative, 2.0 - amounts, amounts)
    amounts = jnp.where(_is(chosen, GEOMETRY) & negative, -amounts, amounts)
    kept = jnp.where(uniform[1:3] <= probabilities[pair], chosen, NUMBER["identity"])
    return kept, amounts, uniform[5:].reshape(2, 2)


def three_augment(image, key, *, radius=(0.1, 2.0)):
    """3-Augment of DeiT III (arXiv:2204.07118, sec. 3): grey, solarized at 128, or blurred by
    Pillow's GaussianBlur with a uniform radius: always one of them."""
    uniform = jax.random.uniform(key, (2,))
    choice = whole_below(uniform[0], 3)
    radius_drawn = radius[0] + (radius[1] - radius[0]) * uniform[1]

    @one_by_one
    def apply(image, choice, radius_drawn):
        branches = (
            lambda image: jnp.broadcast_to(grey(image), image.shape),
            lambda image: 255.0 * solarize(image / 255.0),
            lambda image: pillow_blur(image, radius_drawn, largest=radius[1]),
        )
        return planes(switch(choice, branches, pixels(image)))

    return pixels(apply(planes(image), choice, radius_drawn))


def one_by_one(function):
    """A function of the planes of one image that chooses what it computes, for a batch too.

    Under vmap a choice is computed in all its forms, and one is kept. So a batch goes through a
    loop instead, each device's part through its own, and every image costs what it chose. A GPU
    asks the host at every choice: there all forms at once are taken to be the less costly (not
    measured).
    """
    chosen = jax.custom_batching.custom_vmap(function)

    @chosen.def_vmap
    def batch(size, batched, *args):
        def whole(x, own):
            return x if own else jnp.broadcast_to(x[None], (size, *x.shape))

        def at_once(args):
            return jax.vmap(function)(*args)

        def in_a_loop(args):
            return on_batch_shards(lambda part: jax.lax.map(lambda one: function(*one), part), args)

        args = jax.tree.map(whole, args, tuple(batched))
        out = jax.lax.platform_dependent(args, cuda=at_once, default=in_a_loop)
        return out, jax.tree.map(lambda _: True, out)

    return chosen


def _apply(image, drawn, *, fill, style, sampling, shares=False):
    """The layers one after another. shares: translations are shares of the image's side."""
    operations, amounts, places = drawn
    if shares:
        height, width = image.shape[:2]
        amounts = jnp.where(operations == NUMBER["translate_x"], amounts * width, amounts)
        amounts = jnp.where(operations == NUMBER["translate_y"], amounts * height, amounts)

    def layer(image, drawn):
        out = distort(pixels(image), *drawn, fill=fill, style=style, sampling=sampling)
        return planes(out), None

    # A scan: one layer's program, whatever their number.
    @one_by_one
    def layers(image, drawn):
        return jax.lax.scan(layer, image, drawn)[0]

    return pixels(layers(planes(image), (operations, amounts, places)))


def _by_name(amounts):
    """A float32 table over OPERATIONS; 0 for those that need no amount."""
    amounts = dict.fromkeys(NUMBER, 0.0) | amounts
    return jnp.asarray([amounts[name] for name in NUMBER], jnp.float32)


def _by_layer(operations, amounts):
    """amounts[name][l] for the name that stands in layer l."""
    out = jnp.zeros(operations.shape, jnp.float32)
    for name, each in amounts.items():
        out = jnp.where(operations == NUMBER[name], each, out)
    return out


def _is(operations, names):
    """Whether the operation of each layer is one of these."""
    numbers = jnp.asarray([NUMBER[name] for name in names])
    return (operations[:, None] == numbers[None, :]).any(axis=1)


def _imagenet_policy():
    """IMAGENET_POLICY as arrays [25, 2]: operations, probabilities, amounts (those of the positive
    sign: 1 + m for enhancements)."""
    words = IMAGENET_POLICY.replace("|", " ").split()
    rows = [words[i : i + 3] for i in range(0, len(words), 3)]
    step = np.arange(10) / 9
    scales = {
        **dict.fromkeys(("shear_x", "shear_y"), 0.3 * step),
        **dict.fromkeys(("translate_x", "translate_y"), 150 / 331 * step),
        "rotate": 30 * step,
        **dict.fromkeys(ENHANCEMENTS, 1 + 0.9 * step),
        "posterize": 8 - np.rint(4 * step),
        "solarize": 255 * (1 - step),
    }
    amounts = [scales[name][int(level)] if level != "-" else 0.0 for name, _, level in rows]
    columns = (
        np.array([NUMBER[name] for name, _, _ in rows], np.int32),
        np.array([float(chance) for _, chance, _ in rows], np.float32),
        np.array(amounts, np.float32),
    )
    return tuple(column.reshape(-1, 2) for column in columns)


POLICIES = {
    "randaugment_tf": randaugment_tf,
    "randaugment_timm": randaugment_timm,
    "autoaugment": autoaugment,
    "three_augment": three_augment,
}
