"""Do the same parts of two objects of a class have the same features? By key points and by parts.

Key points: the transfer of SPair-71k (arXiv:1908.10543) as DINOv3 (arXiv:2508.10104) measures
frozen features by it.

M images of S x S pixels, h x w patches, D width, K key points, T pairs of images.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators.features import Frozen, Sample
from vitjax.evaluators.knn import unit
from vitjax.evaluators.maps import (
    bilinear,
    each_row,
    label_patches,
    majority,
    sample_with,
    upsampling,
)
from vitjax.evaluators.overlap import UNKNOWN, box


def run(
    train: Frozen | None,
    validation: Frozen,
    *,
    pairs: int = 1000,
    alpha: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """{"pck_point", "pck_image"} where there are key points; {"part_accuracy", "part_chance"} where
    there are part masks: of `pairs` ordered pairs of images of one class, or of all there are.

    pck: the share of key points carried from source to target at most alpha * max(height, width) of
    the target object away from its own, over all points, or of each pair and then its mean. A point
    counts where both images show it. Object: the box of mask above 0, of the visible points where
    there is no mask. part: see parts.
    """
    del train
    check(pairs=pairs, alpha=alpha, seed=seed)
    sample = sample_with(validation, ("points", "part"), "matching")
    couples = draw(sample.label, pairs, seed)
    result = {}
    if sample.points is not None:
        result |= key_points(sample, couples, alpha)
    if sample.part is not None:
        result |= parts(sample, couples)
    return result


def check(*, pairs, alpha, seed):
    if pairs < 1:
        raise ValueError(f"evaluators.matching.pairs={pairs}: expected at least 1")
    if not alpha > 0:
        raise ValueError(f"evaluators.matching.alpha={alpha}: expected a number above 0")
    if seed < 0:
        raise ValueError(f"evaluators.matching.seed={seed}: expected at least 0")


def draw(label: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """int32 [T, 2]: places of source and target, two images of one class, by the seed."""
    same = (label[:, None] == label[None, :]) & ~np.eye(len(label), dtype=bool)
    every = np.argwhere(same).astype(np.int32)
    if not len(every):
        raise ValueError(
            "evaluators.matching: no two images of the sample share a class; sample more images"
        )
    chosen = np.random.default_rng(seed).permutation(len(every))[:pairs]
    return every[np.sort(chosen)]


def key_points(sample: Sample, couples: np.ndarray, alpha: float) -> dict[str, float]:
    """{"pck_point", "pck_image"}; ValueError where no pair shows a point twice."""
    size, (h, w) = sample.images.shape[1], sample.patches.shape[1:3]
    shared = {
        "patches": sample.patches,
        "at_y": bilinear(sample.points[..., 0] * (h / size), h),
        "at_x": bilinear(sample.points[..., 1] * (w / size), w),
        "down": upsampling(size, h),
        "across": upsampling(size, w),
    }
    landed = each_row(transfer, shared, couples)  # [T, K, 2]
    source, target = couples.T
    extent = np.asarray([extent_of(sample, i) for i in range(len(sample.label))])
    seen = sample.points[..., 2] > 0
    # A target of one point and no mask has no size, and no distance that would count as near.
    counted = seen[source] & seen[target] & (extent[target] > 0)[:, None]
    if not counted.any():
        raise ValueError(
            "evaluators.matching: no pair of images shows one key point twice; sample more images"
        )
    gap = np.linalg.norm(landed - sample.points[target, :, :2].astype(np.float64), axis=-1)
    right = counted & (gap <= alpha * extent[target][:, None])
    some = counted.any(axis=1)
    shares = right[some].sum(axis=1) / counted[some].sum(axis=1)
    return {
        "pck_point": float(right.sum() / counted.sum()),
        "pck_image": float(np.mean(shares)),
    }


def extent_of(sample: Sample, at: int) -> float:
    """max(height, width) of the object in image `at`, in pixels; 0 where nothing shows it."""
    if sample.mask is not None:
        inside = (sample.mask[at] > 0) & (sample.mask[at] != UNKNOWN)
        if inside.any():
            top, left, bottom, right = box(inside)
            return float(max(bottom - top, right - left))
    points = sample.points[at]
    shown = points[points[:, 2] > 0, :2]
    return float(np.ptp(shown, axis=0).max()) if len(shown) else 0.0


def transfer(shared, couple):
    """Where the target looks most like each point of the source: float32 [K, 2], y and x.

    Cosine similarity with the target's features upsampled bilinearly to the image: interpolation
    is linear, so the products are upsampled instead of the features, and of those the norms alone
    are needed, a line at a time.
    """
    source, target = couple
    across, highest = shared["across"], jax.lax.Precision.HIGHEST
    patches = shared["patches"][target]
    points = jnp.einsum(
        "kh,hwd,kw->kd",
        shared["at_y"][source],
        shared["patches"][source],
        shared["at_x"][source],
        precision=highest,
    )

    def line_norms(weights):  # [h] -> [S]
        line = jnp.einsum("h,hwd->wd", weights, patches, precision=highest)
        return jnp.linalg.norm(jnp.matmul(across, line, precision=highest), axis=1)

    norms = jax.lax.map(line_norms, shared["down"])
    products = jnp.einsum("kd,hwd->khw", points, patches, precision=highest)
    products = jnp.einsum("yh,khw,xw->kyx", shared["down"], products, across, precision=highest)
    cosines = products / jnp.maximum(norms, 1e-12)[None, :, :]
    best = jnp.argmax(cosines.reshape(len(points), -1), axis=1)
    y, x = best // len(across), best % len(across)
    return jnp.stack([y, x], axis=1).astype(jnp.float32) + 0.5


def parts(sample: Sample, couples: np.ndarray) -> dict[str, float]:
    """{"part_accuracy", "part_chance"} of patches that mostly show a part the target has too.

    accuracy: the share whose nearest patch of the target, by cosine, mostly shows the same part;
    chance: what a patch of the target at random would score.
    """
    h, w = sample.patches.shape[1:3]
    part = majority(label_patches(sample.part, h, w)).reshape(len(sample.part), -1)
    near = each_row(nearest_patch, sample.patches, couples)  # [T, h * w]
    right, chance = [], []
    for (source, target), at in zip(couples, near, strict=True):
        share = np.bincount(part[target], minlength=256) / (h * w)
        asked = part[source]
        counted = (asked > 0) & (asked != UNKNOWN) & (share[asked] > 0)
        right.append((part[target][at] == asked)[counted])
        chance.append(share[asked][counted])
    right, chance = np.concatenate(right), np.concatenate(chance)
    if not len(right):
        raise ValueError(
            "evaluators.matching: no pair of images shows one part twice; sample more images"
        )
    return {"part_accuracy": float(np.mean(right)), "part_chance": float(np.mean(chance))}


def nearest_patch(patches, couple):
    """[M, h, w, D] -> int32 [h * w]: for each patch of the source, the nearest of the target."""
    source, target = (unit(patches[at].reshape(-1, patches.shape[-1])) for at in couple)
    cosines = jnp.einsum("id,jd->ij", source, target, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(cosines, axis=1).astype(jnp.int32)
