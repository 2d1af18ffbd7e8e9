"""Which patches are hidden: as many as is said beforehand, so that shapes are static.

B images, G crops of each, h x w grid of patches, N = h * w, M masked patches of a group of images.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Images whose masks are drawn together, and whose masked patches are gathered together: as long as
# they stay on one device nothing moves, and no mesh changes a draw.
GROUP = 32
TRIES = 10  # of a block's shape and place, before the rest is filled by single patches
BLOCKS = 8  # placed in a mask at most
ASPECT = 0.3  # the narrowest block, and with 1 / ASPECT the widest


class Masks(NamedTuple):
    """mask: bool [B, G, h, w]. places: int32 [groups, M], where the masked patches of a group lie
    among its (images * G * N) patches. weights: float32 [groups, M], 1 / (B * G * masked patches of
    the same crop)."""

    mask: jax.Array
    places: jax.Array
    weights: jax.Array


def counts(crops: int, patches: int, share: float, ratio: tuple[float, float]) -> list[int]:
    """How many patches each of `crops` crops hides: int(N p) with p at the upper ends of n equal
    parts of `ratio` for n = floor(crops * share) of them, 0 for the others (DINOv3)."""
    masked = math.floor(crops * share)
    low, high = ratio
    ends = [low + (high - low) * (i + 1) / masked for i in range(masked)]
    # int(N p) as the exact number would have it: 0.3 * 10 is 2.9999999999999996 in places.
    return [int(patches * end + 1e-9) for end in ends] + [0] * (crops - masked)


def block_masks(key, images, crops, grid, *, share=0.5, ratio=(0.1, 0.5), least=4) -> Masks:
    """Blocks of hidden patches for `crops` crops of each of `images` images.

    grid: (h, w). share: of the crops that hide something. ratio: least and largest share of their
    patches. least: patches of the smallest block, 1 for tiny grids. A crop that is to hide T
    patches gets blocks (arXiv:2106.08254, algorithm 1, with DINOv2's draws) and then single ones
    until it hides exactly T. Which crop gets which T is drawn within groups of up to GROUP images.
    Raises ValueError where nothing would be hidden.
    """
    h, w = grid
    group = math.gcd(images, GROUP)
    wanted = counts(group * crops, h * w, share, tuple(ratio))
    if not sum(wanted):
        raise ValueError(
            f"objective.mask_ratio={tuple(ratio)} with objective.mask_share={share} hides nothing "
            f"of {group * crops} crops of {h} x {w} patches: raise it, or the batch or image size"
        )
    order_key, block_key = jax.random.split(key)
    keys = jax.random.split(order_key, images // group)
    targets = jax.vmap(lambda key: jax.random.permutation(key, jnp.asarray(wanted, jnp.int32)))(
        keys
    ).reshape(-1)  # [images * crops]
    keys = jax.random.split(block_key, images * crops)
    flat = jax.vmap(lambda key, target: one_mask(key, target, grid, least))(keys, targets)
    rows = flat.reshape(images // group, group * crops * h * w)
    # Masked places first, in order: a stable sort of "is not masked".
    places = jnp.argsort(~rows, axis=1, stable=True)[:, : sum(wanted)].astype(jnp.int32)
    crop = places // (h * w) + (jnp.arange(images // group) * group * crops)[:, None]
    weights = 1.0 / (images * crops * jnp.maximum(targets, 1).astype(jnp.float32))
    return Masks(flat.reshape(images, crops, h, w), places, weights[crop])


def one_mask(key, target, grid, least):
    """Exactly `target` (a traced int32) of the h x w patches: bool [h, w]."""
    h, w = grid
    block_key, fill_key = jax.random.split(key)
    largest = jnp.int32(h * w // 2)

    def place(mask, key):
        """At most one more block: the first of TRIES draws that fits."""
        room = jnp.minimum(target - mask.sum(), largest)
        draws = jax.random.uniform(key, (4, TRIES))
        high = jnp.maximum(room.astype(jnp.float32), float(least))
        area = least + (high - least) * draws[0]
        aspect = jnp.exp(math.log(ASPECT) * (1.0 - 2.0 * draws[1]))
        bh = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
        bw = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
        top = jnp.floor(draws[2] * (h - bh + 1).astype(jnp.float32)).astype(jnp.int32)
        left = jnp.floor(draws[3] * (w - bw + 1).astype(jnp.float32)).astype(jnp.int32)
        y, x = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None, :]
        top, left, tall, wide = (n[:, None, None] for n in (top, left, bh, bw))
        block = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        new = (block & ~mask[None]).sum(axis=(1, 2))
        fits = (bh > 0) & (bw > 0) & (bh < h) & (bw < w) & (new > 0) & (new <= room)
        chosen = jnp.argmax(fits)
        return jnp.where(fits[chosen], mask | block[chosen], mask), None

    mask, _ = jax.lax.scan(place, jnp.zeros((h, w), bool), jax.random.split(block_key, BLOCKS))
    # Masked ones keep a rank below all others, which come in random order.
    rank = jnp.where(mask, -1.0, jax.random.uniform(fill_key, (h, w))).reshape(-1)
    position = jnp.argsort(jnp.argsort(rank))
    return (position < target).reshape(h, w)


def gather(patches, places):
    """The masked patches of all groups, [groups * M, D]. patches: [crops, h, w, D] in the order of
    `block_masks`; places: of Masks."""
    D = patches.shape[-1]
    rows = patches.reshape(places.shape[0], -1, D)
    return jnp.take_along_axis(rows, places[:, :, None], axis=1).reshape(-1, D)


def random_masks(key, images, grid, ratio):
    """MAE's masks (arXiv:2111.06377, sec. 3): (kept, mask).

    grid: (h, w). kept: int32 [images, int(N (1 - ratio))], the patches that stay, in order; mask:
    bool [images, h, w], True where hidden. Raises ValueError where none or all would stay.
    """
    h, w = grid
    stay = check_ratio(ratio, grid)
    noise = jax.random.uniform(key, (images, h * w))
    kept = jnp.sort(jnp.argsort(noise, axis=1)[:, :stay], axis=1).astype(jnp.int32)
    mask = jnp.ones((images, h * w), bool).at[jnp.arange(images)[:, None], kept].set(False)
    return kept, mask.reshape(images, h, w)


def check_ratio(ratio, grid) -> int:
    """How many of the h x w patches stay. Raises ValueError where none or all would."""
    h, w = grid
    stay = int(h * w * (1.0 - ratio) + 1e-9)
    if not 0 < stay < h * w:
        raise ValueError(
            f"objective.mask_ratio={ratio} keeps {stay} of {h} x {w} patches: expected one at "
            "least, and one less than all"
        )
    return stay
