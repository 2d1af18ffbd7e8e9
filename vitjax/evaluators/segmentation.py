"""Linear segmentation on cached patch features, after DINOv3 (arXiv:2508.10104).

The cached variant: features without augmentation, no dropout, no sliding window. Its numbers do not
compare with those of a head trained on augmented crops.

M images of S x S pixels, h x w patches, D width, C classes, G settings, B batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators import dense_head
from vitjax.evaluators.dense_head import Head, descend, outputs_of, resize, scale_of
from vitjax.evaluators.features import Frozen
from vitjax.evaluators.linear import split
from vitjax.evaluators.maps import each_row, sample_with, upsampling
from vitjax.evaluators.overlap import (
    UNKNOWN,
    confusion,
    miou,
    pixel_accuracy,
    require_two_classes,
)

WARMUP = 1500 / 40_000  # share of the steps


def run(
    train: Frozen,
    validation: Frozen,
    *,
    lrs: Sequence[float] = (1e-4, 3e-4, 1e-3),
    weight_decays: Sequence[float] = (1e-4, 1e-3),
    steps: int = 2000,
    batch_size: int = 16,
    holdout: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """{"miou", "pixel_accuracy", "lr", "weight_decay" (the chosen ones)}.

    Logits of the patches are upsampled bilinearly to the label's size; cross-entropy over the
    pixels that are known. A share `holdout` of train's images chooses the setting by mIoU (the
    first of equals); the rest trains. Rates do not scale with the batch. Background is a class.
    Memory: 4 B S S C G bytes a few times over, G / devices under a mesh (jax.set_mesh).
    """
    check(
        lrs=lrs,
        weight_decays=weight_decays,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
    )
    known, asked = (sample_with(each, ("mask",), "segmentation") for each in (train, validation))
    if len(known.label) < 2:
        raise ValueError(
            f"evaluators.segmentation: {len(known.label)} train image cannot both train and choose "
            "a head; sample more images"
        )
    require_two_classes(known.mask, "segmentation")
    classes = 1 + largest(known.mask)
    held, rest = split(len(known.label), holdout, seed)
    size, (h, w) = known.mask.shape[1], known.patches.shape[1:3]
    shared = {
        "down": upsampling(size, h),
        "across": upsampling(size, w),
        "scale": scale_of(known.patches[rest]),
    }
    heads = dense_head.fit(
        train_one,
        shared | {"patches": known.patches[rest], "mask": known.mask[rest]},
        outputs=classes,
        lrs=lrs,
        weight_decays=weight_decays,
        schedule=dense_head.Schedule(steps, batch_size, WARMUP, seed),
    )
    given = each_row(classify, shared | {"heads": heads}, known.patches[held])  # [held, G, S, S]
    scores = [
        miou(confusion(known.mask[held], given[:, i], classes)) for i in range(given.shape[1])
    ]
    chosen = int(np.argmax(np.nan_to_num(scores, nan=-1.0)))

    best = jax.tree.map(lambda leaf: leaf[chosen : chosen + 1], heads)
    final = each_row(classify, shared | {"heads": best}, asked.patches)[:, 0]
    counts = confusion(asked.mask, final, max(classes, 1 + largest(asked.mask)))
    return {
        "miou": miou(counts),
        "pixel_accuracy": pixel_accuracy(counts),
        "lr": float(lrs[chosen // len(weight_decays)]),
        "weight_decay": float(weight_decays[chosen % len(weight_decays)]),
    }


def check(*, lrs, weight_decays, steps, batch_size, holdout, seed):
    dense_head.check(
        "segmentation",
        lrs=lrs,
        weight_decays=weight_decays,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
    )


def largest(mask: np.ndarray) -> int:
    return int(mask[mask != UNKNOWN].max(initial=0))


def logits_of(shared, head: Head, patches):
    """[..., h, w, D] -> [..., S, S, C]."""
    maps = outputs_of(head, shared["scale"], patches)
    return resize(maps, shared["down"], shared["across"])


def cross_entropy(shared, head: Head, at):
    """Mean over the known pixels of the images `at` [B]."""
    mask = shared["mask"][at]
    known = mask != UNKNOWN
    log_p = jax.nn.log_softmax(logits_of(shared, head, shared["patches"][at]), axis=-1)
    label = jnp.where(known, mask, 0)[..., None].astype(jnp.int32)
    true = jnp.take_along_axis(log_p, label, axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(known.astype(jnp.float32)), 1.0)
    return -jnp.sum(jnp.where(known, true, 0.0)) / count


def train_one(shared, setting) -> Head:
    return descend(lambda head, at, step: cross_entropy(shared, head, at), shared, setting)


def classify(shared, patches):
    """[h, w, D] by each of G heads: uint8 [G, S, S]."""

    def by(head):
        return jnp.argmax(logits_of(shared, head, patches), axis=-1).astype(jnp.uint8)

    return jax.lax.map(by, shared["heads"])
