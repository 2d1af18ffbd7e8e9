"""Erasing, and the mixing of examples: mixup and cutmix over the global batch.

B batch, S side, C classes. The partner of an example is its neighbour in the batch (a roll by one over
the global batch, not within a device): order is already random. Drawing lambda or 1 - lambda only
swaps partners, so the max(lambda, 1 - lambda) of some code bases changes nothing that is learned.
"""

import math

import jax
import jax.numpy as jnp


def random_erasing(image, key, probability, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), mode="noise"):
    """Erases a rectangle of a normalised image [S, S, 3] (arXiv:1708.04896), as timm does.

    probability: that the image is touched. area: range of the share erased. ratio: range of height
    / width, log-uniform. The first of ten draws smaller than the image is taken. mode: "noise" fills
    every pixel and channel with its own N(0, 1), "zero" with 0, the mean colour.
    """
    height, width = image.shape[:2]
    keys = jax.random.split(key, 6)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    target = height * width * jax.random.uniform(keys[0], (10,), minval=area[0], maxval=area[1])
    aspect = jnp.exp(jax.random.uniform(keys[1], (10,), minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(target * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(target / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = jax.random.randint(keys[2], (), 0, jnp.maximum(height - h, 0) + 1)
    left = jax.random.randint(keys[3], (), 0, jnp.maximum(width - w, 0) + 1)
    erased = fits.any() & (jax.random.uniform(keys[4]) < probability)
    inside = _rectangle(height, width, top, top + h, left, left + w) & erased
    fill = jax.random.normal(keys[5], image.shape) if mode == "noise" else jnp.zeros_like(image)
    return jnp.where(inside, fill, image)


def _rectangle(height, width, top, bottom, left, right):
    """Bool [height, width, 1], true in rows top .. bottom - 1 and columns left .. right - 1."""
    y, x = jnp.arange(height), jnp.arange(width)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, None] & columns[None, :])[:, :, None]


def cutmix_box(key, share, height, width):
    """Box (top, bottom, left, right) that covers about 1 - share of an image (arXiv:1905.04899).

    Its centre is uniform over the image and what crosses the border is cut off, so the true area may
    be smaller: correct lambda by it.
    """
    side = jnp.sqrt(1.0 - share)
    half_height = (height * side).astype(jnp.int32) // 2
    half_width = (width * side).astype(jnp.int32) // 2
    y_key, x_key = jax.random.split(key)
    y, x = jax.random.randint(y_key, (), 0, height), jax.random.randint(x_key, (), 0, width)
    top, bottom = jnp.clip(y - half_height, 0, height), jnp.clip(y + half_height, 0, height)
    left, right = jnp.clip(x - half_width, 0, width), jnp.clip(x + half_width, 0, width)
    return top, bottom, left, right


def _own_part(key, height, width, mixup, cutmix):
    """How much of each pixel is the example's own, [height, width, 1], and the label's share."""
    switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
    if mixup:
        share = jax.random.beta(mixup_key, mixup, mixup)
        mixed = jnp.full((height, width, 1), share)
    if cutmix:
        drawn = jax.random.beta(cutmix_key, cutmix, cutmix)
        top, bottom, left, right = cutmix_box(box_key, drawn, height, width)
        cut = jnp.where(_rectangle(height, width, top, bottom, left, right), 0.0, 1.0)
        kept = 1.0 - ((bottom - top) * (right - left)).astype(jnp.float32) / (height * width)
    if mixup and cutmix:
        chosen = jax.random.uniform(switch_key) < 0.5
        return jnp.where(chosen, cut, mixed), jnp.where(chosen, kept, share)
    return (cut, kept) if cutmix else (mixed, share)


def mix(images, labels, keys, mixup=0.0, cutmix=0.0, mode="batch"):
    """Mixes every example with its neighbour in the global batch, images and labels alike.

    images: float [B, S, S, 3]; labels: float32 [B, C]; keys: [B], one per example. mixup
    (arXiv:1710.09412) and cutmix (arXiv:1905.04899): the a of Beta(a, a), 0 is off; with both on, one is
    taken with probability 1/2, as timm. mode: "batch" draws once for the whole batch, from the key of
    its first example; "example" draws for every example. Returns images, labels.
    """
    if not mixup and not cutmix:
        return images, labels
    height, width = images.shape[1:3]

    def draw(key):
        return _own_part(key, height, width, mixup, cutmix)

    if mode == "batch":
        own, share = jax.tree.map(lambda x: x[None], draw(keys[0]))
    else:
        own, share = jax.vmap(draw)(keys)
    images = own * images + (1.0 - own) * jnp.roll(images, 1, axis=0)
    share = share[:, None]
    return images, share * labels + (1.0 - share) * jnp.roll(labels, 1, axis=0)


def mixup(images, labels, keys, alpha, mode="batch"):
    """`mix` with lambda ~ Beta(alpha, alpha) over whole images."""
    return mix(images, labels, keys, mixup=alpha, mode=mode)


def cutmix(images, labels, keys, alpha, mode="batch"):
    """`mix` with a box of the neighbour pasted in; labels follow the box's true area."""
    return mix(images, labels, keys, cutmix=alpha, mode=mode)
