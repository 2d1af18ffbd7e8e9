"""The effective receptive field: which pixels move the middle of the map (arXiv:1701.04128).

M images of S x S pixels, patches [M, h, w, D].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators.features import Frozen, Inside


def run(
    train: Frozen | None,
    validation: Frozen,
    *,
    images: int = 64,
    draws: int = 4,
    shares: Sequence[float] = (0.5, 0.95),
    seed: int = 0,
) -> dict[str, float]:
    """{"side_<share>"}: the side of the square around the middle patch that holds that share of the
    gradient of its features in the pixels, as a share of the side of the image.

    |dy/dx| is summed over colours and averaged over the first `images` of the sample and over
    `draws` y each: sums of the patch's features with random signs, since a plain sum is a constant
    after a LayerNorm. Where the map has an even side the patch is the one below and right of the
    middle; squares reach over the border, so a side may be above 1.
    """
    del train
    check(images=images, draws=draws, shares=shares, seed=seed)
    sample = validation.sample
    pixels = sample.images[:images]
    signs = np.random.default_rng(seed).choice(
        np.float32([-1, 1]), (draws, len(pixels), sample.patches.shape[-1])
    )
    gradient = np.mean(
        [sample.measure(influence, pixels, each).mean(axis=0, dtype=np.float64) for each in signs],
        axis=0,
    )
    h, w = sample.patches.shape[1:3]
    side = len(gradient)
    centre = (h // 2 + 0.5) * side / h, (w // 2 + 0.5) * side / w
    return {f"side_{share:g}": square(gradient, centre, share) / side for share in shares}


def check(*, images, draws, shares, seed):
    for key, value, least in (("images", images, 1), ("draws", draws, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"evaluators.bias_field.{key}={value}: expected at least {least}")
    if not isinstance(shares, Sequence) or not shares or not 0 < min(shares) <= max(shares) < 1:
        raise ValueError(
            f"evaluators.bias_field.shares={shares!r}: expected a list of shares between 0 and 1"
        )


def influence(inside: Inside, images, signs):
    """images [n, S, S, 3], signs [n, D] -> [n, S, S]: |dy/dx|, y the middle patch by the signs."""

    def middle(images):
        patches = inside.features(images).patches
        h, w = patches.shape[1:3]
        return (patches[:, h // 2, w // 2] * signs).sum()

    return jnp.abs(jax.grad(middle)(images)).sum(-1)


def square(gradient: np.ndarray, centre: tuple[float, float], share: float) -> float:
    """Side in pixels of the smallest square about the centre (in pixels, from the border) whose
    pixels hold the share. NaN where nothing has an influence."""
    total = gradient.sum()
    if not total > 0:
        return float("nan")
    y, x = (np.abs(np.arange(n) + 0.5 - at) for n, at in zip(gradient.shape, centre, strict=True))
    away = np.maximum(y[:, None], x[None]).ravel()  # a square has all pixels up to so far
    order = np.argsort(away, kind="stable")
    held = np.cumsum(gradient.ravel()[order])
    # Rounding is not to make a square that holds all of it miss a share of it.
    reached = np.searchsorted(held, share * total * (1 - 1e-9))
    return float(2 * away[order[min(reached, len(order) - 1)]] + 1)
