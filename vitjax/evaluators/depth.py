"""Linear depth on cached patch features, after DINOv2 (arXiv:2304.07193; its "lin. 1").

The cached variant: features without augmentation, no flip at test. Its numbers do not compare with
those of a head trained on augmented crops.

M images of S x S pixels, h x w patches, D width, G settings, B batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators import dense_head
from vitjax.evaluators.dense_head import Head, descend, outputs_of, resize, scale_of
from vitjax.evaluators.features import Frozen, Sample
from vitjax.evaluators.linear import split
from vitjax.evaluators.maps import each_row, sample_with, upsampling

BINS = 256
FINER = 4  # depth is read from a map so many times finer than the patches
WARMUP = 1 / 3  # share of the steps
MEAN_ONLY = 100  # first steps, at most a tenth of all, without the variance term


def run(
    train: Frozen,
    validation: Frozen,
    *,
    min_depth: float | None = None,
    max_depth: float | None = None,
    lrs: Sequence[float] = (3e-4, 1e-3, 3e-3),
    weight_decay: float = 1e-4,
    steps: int = 2000,
    batch_size: int = 16,
    holdout: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """{"rmse", "abs_rel", "a1", "a2", "a3", "log10", "lr" (the chosen one)}; depths in metres.

    A patch is concatenated with its image's pooled features; a 1x1 convolution to 256 scores,
    upsampled bilinearly by 4; weights relu(score) + 0.1, normalised; depth is the weighted sum of
    256 equally spaced depths from min_depth to max_depth (those of the train sample where None),
    upsampled bilinearly to the label's size. Loss: see scale_invariant. A share `holdout` of
    train's images chooses the rate by rmse; the rest trains. Pixels of depth 0 are left out.
    """
    check(
        min_depth=min_depth,
        max_depth=max_depth,
        lrs=lrs,
        weight_decay=weight_decay,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
    )
    known, asked = (sample_with(each, ("depth",), "depth") for each in (train, validation))
    labelled = [np.flatnonzero((each.depth > 0).any(axis=(1, 2))) for each in (known, asked)]
    if len(labelled[0]) < 2 or not len(labelled[1]):
        raise ValueError(
            f"evaluators.depth: {len(labelled[0])} train and {len(labelled[1])} validation images "
            "with a known depth, expected at least 2 and 1; sample more images"
        )
    features, depth = with_pooled(known)[labelled[0]], known.depth[labelled[0]]
    held, rest = split(len(depth), holdout, seed)
    size, (h, w) = depth.shape[1], features.shape[1:3]
    near = float(depth[depth > 0].min()) if min_depth is None else min_depth
    far = float(depth.max()) if max_depth is None else max_depth
    if not near <= far:
        raise ValueError(
            f"evaluators.depth: min_depth={near} and max_depth={far}: expected a range; "
            "the train sample's stands for the one not given"
        )
    shared = {
        "finer": (upsampling(FINER * h, h), upsampling(FINER * w, w)),
        "pixels": (upsampling(size, FINER * h), upsampling(size, FINER * w)),
        "scale": scale_of(features[rest]),
        "bins": np.linspace(near, far, BINS).astype(np.float32),
    }
    heads = dense_head.fit(
        train_one,
        shared | {"patches": features[rest], "depth": depth[rest]},
        outputs=BINS,
        lrs=lrs,
        weight_decays=(weight_decay,),
        schedule=dense_head.Schedule(steps, batch_size, WARMUP, seed),
    )
    given = each_row(estimate, shared | {"heads": heads}, features[held])  # [held, G, S, S]
    errors = [measure(given[:, i], depth[held])["rmse"] for i in range(len(lrs))]
    chosen = int(np.argsort(errors, kind="stable")[0])  # NaN sorts last: a head that diverged

    best = jax.tree.map(lambda leaf: leaf[chosen : chosen + 1], heads)
    rows = with_pooled(asked)[labelled[1]]
    final = each_row(estimate, shared | {"heads": best}, rows)[:, 0]
    return measure(final, asked.depth[labelled[1]]) | {"lr": float(lrs[chosen])}


def check(*, min_depth, max_depth, weight_decay, **training):
    for key, value in (("min_depth", min_depth), ("max_depth", max_depth)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"evaluators.depth.{key}={value}: expected metres above 0, or None")
    if min_depth is not None and max_depth is not None and not min_depth < max_depth:
        raise ValueError(
            f"evaluators.depth.max_depth={max_depth}: expected more than min_depth, {min_depth}"
        )
    if not weight_decay >= 0:
        raise ValueError(f"evaluators.depth.weight_decay={weight_decay}: expected at least 0")
    dense_head.check("depth", **training)


def with_pooled(sample: Sample) -> np.ndarray:
    """[M, h, w, 2 D]: each patch beside the pooled features of its image."""
    M, h, w = sample.patches.shape[:3]
    pooled = np.broadcast_to(sample.pooled[:, None, None, :], (M, h, w, sample.pooled.shape[1]))
    return np.concatenate([sample.patches, pooled], axis=-1)


def depth_of(shared, head: Head, patches):
    """[..., h, w, 2 D] -> [..., S, S], metres."""
    scores = resize(outputs_of(head, shared["scale"], patches), *shared["finer"])
    weights = jax.nn.relu(scores) + 0.1
    total = jnp.sum(weights, axis=-1, keepdims=True)
    depth = jnp.einsum("...c,c->...", weights / total, shared["bins"], precision="highest")
    return resize(depth[..., None], *shared["pixels"])[..., 0]


def scale_invariant(predicted, depth, variance):
    """sqrt(variance * var(g) + 0.15 mean(g)^2), g = ln(predicted + 1e-3) - ln(depth + 1e-3), over
    the pixels whose depth is known (arXiv:1406.2283; with 0.85 as in arXiv:2011.14141)."""
    known = (depth > 0).astype(jnp.float32)
    gap = (jnp.log(predicted + 1e-3) - jnp.log(depth + 1e-3)) * known
    count = jnp.maximum(jnp.sum(known), 1.0)
    mean = jnp.sum(gap) / count
    spread = jnp.sum(known * (gap - jnp.expand_dims(mean, range(gap.ndim))) ** 2) / count
    # The floor keeps the slope finite where nothing is wrong, or nothing is known.
    return jnp.sqrt(jnp.maximum(variance * spread + 0.15 * mean**2, 1e-12))


def train_one(shared, setting) -> Head:
    plain = min(MEAN_ONLY, len(shared["factors"]) // 10)

    def loss(head, at, step):
        variance = (step >= plain).astype(jnp.float32)
        predicted = depth_of(shared, head, shared["patches"][at])
        return scale_invariant(predicted, shared["depth"][at], variance)

    return descend(loss, shared, setting)


def estimate(shared, patches):
    """[h, w, 2 D] by each of G heads: float32 [G, S, S]."""
    return jax.lax.map(lambda head: depth_of(shared, head, patches), shared["heads"])


def measure(predicted: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    """Errors of predicted [M, S, S] on the pixels of known depth, of each image, then their mean.

    a1, a2, a3: share of pixels whose ratio to the truth, the larger over the smaller, is below
    1.25, 1.25^2, 1.25^3.
    """
    rows = []
    for guess, truth in zip(predicted.astype(np.float64), depth.astype(np.float64), strict=True):
        guess, truth = guess[truth > 0], truth[truth > 0]
        ratio = np.maximum(guess / truth, truth / guess)
        rows.append(
            {
                "rmse": np.sqrt(np.mean((guess - truth) ** 2)),
                "abs_rel": np.mean(np.abs(guess - truth) / truth),
                **{f"a{i}": np.mean(ratio < 1.25**i) for i in (1, 2, 3)},
                "log10": np.mean(np.abs(np.log10(guess) - np.log10(truth))),
            }
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
