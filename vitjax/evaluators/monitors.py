"""How healthy features are, without labels: collapse, rank, spread, likeness of layers and patches.

n examples looked at, D width, M images of the sample.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators.features import Frozen, Sample
from vitjax.ops.crop import random_resized_crop
from vitjax.ops.statistics import cka, rankme, unbiased_cka, uniformity, unit_rows

IMAGES = 64  # two views of so many are held and encoded at a time


def run(
    train: Frozen | None,
    validation: Frozen,
    *,
    examples: int = 4096,
    area: Sequence[float] = (0.08, 1.0),
    seed: int = 0,
) -> dict[str, float]:
    """Of at most `examples` validation examples, a permutation by the seed, in float64:

    "rankme": effective rank of the features (`ops.statistics.rankme`); "examples": n, without
    which a rank says little. Of features divided by their norm: "uniformity" (the same module; 0
    is collapse), "nearest_neighbour" (mean Euclidean distance to the nearest; 0 is collapse),
    "std" (mean over dimensions of the standard deviation, times sqrt(D); 0 is collapse, 1 is
    isotropic). "cka_layer_1", ...: linear CKA of the last layer with the one before it, and so
    on; "cka_unbiased_layer_1", ...: without what few examples of wide features add to it.
    Of the sample: "alignment", the mean squared distance of the normalised features of two random
    views of an image (arXiv:2005.10242, sec. 4.1), each a random box of a share `area` of it,
    resized, and a flip; "class_patch_cosine", the mean cosine of an image's vector and each of its
    patches, which rises as dense features degrade (arXiv:2508.10104).
    """
    del train
    check(examples=examples, area=area, seed=seed)
    total = len(validation.label)
    if total < 2:
        raise ValueError(
            f"evaluators.monitors: {total} validation example has no neighbour; use a larger "
            "validation split"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(total)[:examples])
    pooled = validation.pooled[rows]
    layers = [layer[rows] for layer in (validation.layers or ())]
    sample = validation.sample
    result = {"rankme": rankme(pooled), "examples": float(len(rows))} | spread(unit_rows(pooled))
    for i, layer in enumerate(layers[1:], start=1):
        result[f"cka_layer_{i}"] = cka(layers[0], layer)
        result[f"cka_unbiased_layer_{i}"] = unbiased_cka(layers[0], layer)
    result["alignment"] = alignment(sample, tuple(area), seed)
    if sample.pooled.shape[1] == sample.patches.shape[-1]:  # else there is no angle: raw pixels
        result["class_patch_cosine"] = class_patch_cosine(sample)
    return result


def check(*, examples, area, seed):
    if examples < 2:
        raise ValueError(f"evaluators.monitors.examples={examples}: expected at least 2")
    if not isinstance(area, Sequence) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"evaluators.monitors.area={area!r}: expected 0 < low <= high <= 1")
    if seed < 0:
        raise ValueError(f"evaluators.monitors.seed={seed}: expected at least 0")


def spread(rows: np.ndarray) -> dict[str, float]:
    """rows [n, D] of norm 1 -> {"uniformity", "nearest_neighbour", "std"}."""
    cosines = np.clip(rows @ rows.T, -1.0, 1.0)  # n^2 * 8 bytes: 134 MB at 4096
    even = uniformity(cosines)
    np.fill_diagonal(cosines, -1.0)
    nearest = np.sqrt(2.0 - 2.0 * cosines.max(axis=1))
    return {
        "uniformity": even,
        "nearest_neighbour": float(nearest.mean()),
        "std": float(rows.std(axis=0).mean() * np.sqrt(rows.shape[1])),
    }


def class_patch_cosine(sample: Sample) -> float:
    cosines = []
    for pooled, patches in zip(sample.pooled, sample.patches, strict=True):
        vector = unit_rows(pooled[None, :])[0]
        cosines.append(np.mean(unit_rows(patches.reshape(-1, patches.shape[-1])) @ vector))
    return float(np.mean(cosines))


def alignment(sample: Sample, area: tuple[float, float], seed: int) -> float:
    """Mean squared distance of the normalised features of two views of each image of the sample.

    Views depend on the seed and on the image's place in its split alone.
    """
    distances = []
    for start in range(0, len(sample.images), IMAGES):
        images = sample.images[start : start + IMAGES]
        rows = sample.rows[start : start + IMAGES].astype(np.uint32)
        real = len(images)
        images = np.resize(images, (IMAGES, *images.shape[1:]))  # one program for all of them
        views = two_views(images, np.resize(rows, IMAGES), np.uint32(seed), area=area)
        one, other = (unit_rows(sample.encode(np.asarray(view)[:real])[0]) for view in views)
        distances.append(np.sum((one - other) ** 2, axis=1))
    return float(np.mean(np.concatenate(distances)))


@functools.partial(jax.jit, static_argnames="area")
def two_views(images, rows, seed, *, area):
    """uint8 [n, S, S, 3] -> a pair of float32 [n, S, S, 3] in 0..255: a random box each, resized
    to S x S, and a flip with probability 1/2."""
    size = images.shape[1]

    def view(image, key):
        place, mirror = jax.random.split(key)
        flip = jax.random.bernoulli(mirror)
        true_size = jnp.full(2, size, jnp.int32)
        return random_resized_crop(image, true_size, place, flip, size, area=area)

    def both(image, row):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), row))
        return view(image, keys[0]), view(image, keys[1])

    return jax.vmap(both)(images, rows)
