"""Erasing, and the mixing of examples: mixup and cutmix over the global batch.

B batch, S side, C classes. The partner of an example is its neighbour in the batch (a roll by one
over the global batch, not within a device): the order is random already. With lambda or with
1 - lambda the same pairs are mixed, so max(lambda, 1 - lambda), as some write, is not needed.
"""

import math

import jax
import jax.numpy as jnp

from vitjax.ops.crop import whole_below


def random_erasing(image, key, probability, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), mode="noise"):
    """Erases a rectangle of a normalised image [S, S, 3] (arXiv:1708.04896), as timm does.

    probability: that the image is touched. area: range of the share erased. ratio: range of
    height / width, log-uniform. The first of ten draws smaller than the image is taken. mode:
    "noise" gives every pixel and channel its own N(0, 1); "zero" fills with 0, the mean colour.
    """
    height, width = image.shape[:2]
    draw_key, fill_key = jax.random.split(key)
    uniform = jax.random.uniform(draw_key, (23,))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    target = height * width * (area[0] + (area[1] - area[0]) * uniform[:10])
    aspect = jnp.exp(low + (high - low) * uniform[10:20])
    heights = jnp.round(jnp.sqrt(target * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(target / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    top = whole_below(uniform[20], height - h + 1)
    left = whole_below(uniform[21], width - w + 1)
    erased = fits.any() & (uniform[22] < probability)
    inside = _rectangle(height, width, top, top + h, left, left + w) & erased
    fill = jax.random.normal(fill_key, image.shape) if mode == "noise" else jnp.zeros_like(image)
    return jnp.where(inside, fill, image)


def _rectangle(height, width, top, bottom, left, right):
    """Bool [height, width, 1], true in rows top .. bottom - 1 and columns left .. right - 1."""
    y, x = jnp.arange(height), jnp.arange(width)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, None] & columns[None, :])[:, :, None]


def cutmix_box(key, share, height, width):
    """Box (top, bottom, left, right) that covers about 1 - share of an image (arXiv:1905.04899).

    Its centre is uniform over the image and what crosses the border is cut off, so the true area
    may be smaller.
    """
    side = jnp.sqrt(1.0 - share)
    half_height = (height * side).astype(jnp.int32) // 2
    half_width = (width * side).astype(jnp.int32) // 2
    uniform = jax.random.uniform(key, (2,))
    y, x = whole_below(uniform[0], height), whole_below(uniform[1], width)
    top, bottom = jnp.clip(y - half_height, 0, height), jnp.clip(y + half_height, 0, height)
    left, right = jnp.clip(x - half_width, 0, width), jnp.clip(x + half_width, 0, width)
    return top, bottom, left, right


def _own_part(key, height, width, mixup, cutmix):
    """How much of each pixel is the example's own, [height, width, 1], and the label's share."""
    share_key, box_key, switch_key = jax.random.split(key, 3)
    cut = jax.random.bernoulli(switch_key) if mixup and cutmix else bool(cutmix)
    alpha = jnp.where(cut, cutmix, mixup)
    share = jax.random.beta(share_key, alpha, alpha)
    own = jnp.full((height, width, 1), share)
    if cutmix:
        top, bottom, left, right = cutmix_box(box_key, share, height, width)
        pasted = _rectangle(height, width, top, bottom, left, right)
        own = jnp.where(cut, jnp.where(pasted, 0.0, 1.0), own)
        kept = 1.0 - ((bottom - top) * (right - left)).astype(jnp.float32) / (height * width)
        share = jnp.where(cut, kept, share)
    return own, share


def mix(images, labels, keys, mixup=0.0, cutmix=0.0, mode="batch"):
    """Mixes every example with its neighbour in the global batch, images and labels alike.

    images: float [B, S, S, 3]; labels: float32 [B, C]; keys: [B], one per example. mixup
    (arXiv:1710.09412) and cutmix (arXiv:1905.04899): the a of Beta(a, a), 0 is off; with both on,
    one is taken with probability 1/2, as timm does. mode: "batch" draws once for the whole batch,
    from the key of its first example; "example" draws for every example. Cutmix weighs labels by
    the true area of its box. Returns images, labels.
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
