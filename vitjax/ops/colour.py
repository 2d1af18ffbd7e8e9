"""Colour on the accelerator: one image, float32 [S, S, 3] in 0..1 (B batch by vmap)."""

import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2 luma, with torchvision's digits

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def normalize(images, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """(images - mean) / std per channel; images [..., 3] in 0..1, mean and std of length 3."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = jnp.asarray(mean, jnp.float32).reshape(shape)
    return (images - mean) / jnp.asarray(std, jnp.float32).reshape(shape)


def grey(image):
    """Luma [S, S, 1] of an image [S, S, 3]."""
    return (image * jnp.asarray(GREY_WEIGHTS, jnp.float32)[None, None, :]).sum(2, keepdims=True)


def random_grey(image, key, probability):
    """The luma of an image in all three channels, with this probability."""
    return jnp.where(jax.random.uniform(key) < probability, grey(image), image)


def solarize(image, threshold=128.0):
    """Inverts what is at or above a threshold, counted in levels of 0..255.

    What 8 bits would round up to the threshold counts too, so that images that were never rounded
    meet Pillow's rule.
    """
    return jnp.where(image >= (threshold - 0.5) / 255.0, 1.0 - image, image)


def random_solarize(image, key, probability, threshold=128.0):
    """`solarize`, with this probability."""
    return jnp.where(jax.random.uniform(key) < probability, solarize(image, threshold), image)


def adjust(image, factor, operation):
    """factor * image + (1 - factor) * target, clipped to 0..1 (torchvision's blend).

    target: black for BRIGHTNESS, the mean luma for CONTRAST, each pixel's luma for SATURATION.
    factor: float32 scalar >= 0; operation: int32 scalar.
    """
    luma = grey(image)
    target = jnp.where(operation == CONTRAST, luma.mean(keepdims=True), luma)
    target = jnp.where(operation == BRIGHTNESS, 0.0, target)
    return jnp.clip(factor * image + (1.0 - factor) * target, 0.0, 1.0)


def shift_hue(image, turn):
    """Rotates the hue of an image by `turn`, a share of the full circle (HSV, Smith 1978)."""
    value = image.max(axis=2, keepdims=True)
    chroma = value - image.min(axis=2, keepdims=True)
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    sector = jnp.where(value == green, 2.0 + (blue - red) / jnp.maximum(chroma, 1e-8), 0.0)
    sector = jnp.where(value == blue, 4.0 + (red - green) / jnp.maximum(chroma, 1e-8), sector)
    sector = jnp.where(value == red, (green - blue) / jnp.maximum(chroma, 1e-8), sector)
    distance = (jnp.asarray((5.0, 3.0, 1.0))[None, None, :] + sector + 6.0 * turn) % 6.0
    return value - chroma * jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)


def color_jitter(image, key, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
    """torchvision's ColorJitter of an image [S, S, 3] in 0..1.

    Factors are uniform in [max(0, 1 - x), 1 + x], the hue turn in [-hue, hue]; the operations
    follow one another in a random order.
    """
    strengths = (brightness, contrast, saturation)
    uniform = jax.random.uniform(key, (8,))
    low = jnp.asarray([max(0.0, 1.0 - x) for x in strengths], jnp.float32)
    high = jnp.asarray([1.0 + x for x in strengths], jnp.float32)
    factors = low + (high - low) * uniform[:3]
    turn = hue * (2.0 * uniform[3] - 1.0)
    # A switch under vmap runs every branch; one blend whose target is selected costs one.
    for operation in jnp.argsort(uniform[4:] if hue else uniform[4:7]):
        blended = adjust(image, factors[jnp.minimum(operation, 2)], operation)
        image = jnp.where(operation == HUE, shift_hue(image, turn), blended) if hue else blended
    return image
