"""Attentive probe on cached patches: a grid of learned poolings trained in one program.

The head, grid and optimizer of CAPI (arXiv:2502.08769, eval_classification.py), in the cached
variant: patches of the split's sample without augmentation, standardised. Its numbers do not
compare with those of a probe trained on augmented images.

M images, T patches, D width, H attention heads, C classes, G heads of the grid, B batch.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vitjax.evaluators import dense_head
from vitjax.evaluators.features import Frozen, evaluation_mesh, fetch
from vitjax.evaluators.linear import minibatches, split

LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
WEIGHT_DECAYS = (5e-4, 1e-3, 0.05)
BETAS = (0.9, 0.95)
HEAD_WIDTH = 64
IMAGES = 256  # scored at a time

einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def run(
    train: Frozen,
    validation: Frozen,
    *,
    lrs: Sequence[float] = LRS,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    steps: int = 1250,
    batch_size: int = 256,
    holdout: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "lr", "weight_decay" (of the chosen head), "holdout_top1"}, on the samples.

    A share `holdout` of the train sample chooses the head (the most accurate; among equals the
    lowest cross-entropy); the rest trains it. Learning rates are per 256 images, rise over the
    first tenth of the steps and fall to 0 by a cosine. batch_size is at most the images there are
    to train on. Attention heads are 64 wide; where 64 does not divide D, as wide as their greatest
    common divisor. Under a mesh (jax.set_mesh) the grid is cut over its devices: same numbers.
    """
    check(
        lrs=lrs,
        weight_decays=weight_decays,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
    )
    sample = train.sample
    if len(sample.label) < 2:
        raise ValueError(
            f"evaluators.attentive: {len(sample.label)} image in the sample of train cannot both "
            "train and choose a head; use a larger sample"
        )
    held, rest = split(len(sample.label), holdout, seed)
    to_fit = tokens(sample.patches)[rest]
    mean = to_fit.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    scale = to_fit.std(axis=(0, 1), dtype=np.float64).astype(np.float32) + np.float32(1e-5)

    def standard(patches):
        return (tokens(patches) - mean[None, None, :]) / scale[None, None, :]

    mesh = evaluation_mesh()
    batch_size = min(batch_size, len(rest))
    grid = list(itertools.product(lrs, weight_decays))
    filled = grid + grid[:1] * (-len(grid) % mesh.size)  # as many on each device
    heads, scores, losses = fetch(
        fit_and_score(
            np.asarray(filled, np.float32) * np.float32([[batch_size / 256, 1.0]]),
            standard(sample.patches[rest]),
            sample.label[rest],
            minibatches(len(rest), steps, batch_size, seed),
            standard(sample.patches[held]),
            sample.label[held],
            seed=np.int32(seed),
            classes=int(sample.label.max()) + 1,
            mesh=mesh,
        )
    )
    chosen = int(np.lexsort((losses, -scores))[0])  # NaN sorts last: a head that diverged
    best = jax.tree.map(lambda leaf: leaf[chosen], heads)
    unseen = validation.sample
    final, _ = score(best, standard(unseen.patches), unseen.label)
    lr, weight_decay = filled[chosen]
    return {
        "top1": float(final),
        "lr": float(lr),
        "weight_decay": float(weight_decay),
        "holdout_top1": float(scores[chosen]),
    }


def tokens(patches):
    """[M, h, w, D] -> [M, h * w, D]"""
    return patches.reshape(len(patches), -1, patches.shape[-1])


@functools.partial(jax.jit, static_argnames=("classes", "mesh"))
def fit_and_score(grid, patches, label, batches, held, held_label, *, seed, classes, mesh):
    """grid [G, 2] (rate, weight decay), patches [M, T, D], label [M], batches [steps, B]; held
    [K, T, D], held_label [K] -> heads, each leaf [G, ...]; accuracy, cross-entropy [G] on held.

    Every device trains its part of the grid on all patches: heads need nothing of one another.
    """
    part = P(mesh.axis_names)

    def on_device(grid, patches, label, batches, held, held_label):
        start = initial(jax.random.key(seed), patches.shape[-1], classes)
        heads = jax.vmap(lambda each: fit(start, each, patches, label, batches))(grid)
        return heads, *jax.lax.map(lambda head: score(head, held, held_label), heads)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(part, P(), P(), P(), P(), P()),
        out_specs=part,
        check_vma=False,
    )(grid, patches, label, batches, held, held_label)


def initial(key, width, classes):
    """Weights from N(0, 0.02), biases 0; one linear layer D -> 2 D stands as "key" and "value".

    Attention does not see a bias of its keys, and the gradient of one is zero: there is none.
    """
    shapes = {
        "query": (width,),
        "key": (width, width),
        "value": (width, width),
        "kernel": (width, classes),
    }
    weights = {
        name: 0.02 * jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)
        for i, (name, shape) in enumerate(shapes.items())
    }
    biases = {"value_bias": jnp.zeros(width), "bias": jnp.zeros(classes)}
    return weights | biases


def logits_of(head, patches):
    """patches [B, T, D] -> [B, C]: softmax pooling with a learned query, then a linear layer.

    Keys and values are never made for each patch: the query is taken through the key kernel, and
    the value kernel applied to what was pooled. The same function, at 1 / T of the cost.
    """
    B, _, D = patches.shape
    per_head = (D, -1, math.gcd(D, HEAD_WIDTH))  # [D, H, D / H]
    query = head["query"].reshape(per_head[1:])
    query = einsum("dhe,he->dh", head["key"].reshape(per_head), query) / math.sqrt(per_head[2])
    attention = jax.nn.softmax(einsum("btd,dh->bth", patches, query), axis=1)
    pooled = einsum("bth,btd->bhd", attention, patches)
    pooled = einsum("bhd,dhe->bhe", pooled, head["value"].reshape(per_head)).reshape(B, D)
    pooled = pooled + head["value_bias"][None, :]
    return einsum("bd,dc->bc", pooled, head["kernel"]) + head["bias"][None, :]


def fit(head, rate_and_decay, patches, label, batches):
    """AdamW: w <- w - lr_t (m' / (sqrt(v') + 1e-8) + decay w), where m', v' are the running moments
    of the gradient divided by 1 - beta^t. lr_t rises over a tenth of the steps; no bias decays.
    """
    lr, weight_decay = rate_and_decay
    t = np.arange(len(batches))
    warm = len(batches) // 10
    cosine = 0.5 * (1 + np.cos(np.pi * (t - warm) / (len(batches) - warm)))
    factors = np.where(t < warm, (t + 1) / max(warm, 1), cosine)
    unbias = 1 / (1 - np.asarray(BETAS)[None, :] ** (t[:, None] + 1))  # [steps, 2]
    decays = {name: 0.0 if name.endswith("bias") else weight_decay for name in head}

    def loss(head, at):
        return cross_entropy(logits_of(head, patches[at]), label[at])

    def step(carry, inputs):
        head, m, v = carry
        at, factor, unbias = inputs
        grads = jax.grad(loss)(head, at)
        m = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, m, grads)
        v = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, v, grads)

        def update(w, m, v, decay):
            direction = m * unbias[0] / (jnp.sqrt(v * unbias[1]) + 1e-8)
            return w - lr * factor * (direction + decay * w)

        return (jax.tree.map(update, head, m, v, decays), m, v), None

    still = jax.tree.map(jnp.zeros_like, head)
    inputs = (batches, factors.astype(np.float32), unbias.astype(np.float32))
    return jax.lax.scan(step, (head, still, still), inputs)[0][0]


def cross_entropy(logits, label):
    # A label that train lacks has no logit: NaN.
    log_p = jax.nn.log_softmax(logits, axis=1)
    return -jnp.mean(jnp.take_along_axis(log_p, label[:, None], axis=1, mode="fill"))


@jax.jit
def score(head, patches, label):
    """Accuracy and cross-entropy of one head; patches [M, T, D], label [M]."""
    logits = jax.lax.map(lambda each: logits_of(head, each[None])[0], patches, batch_size=IMAGES)
    hits = (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)
    return jnp.mean(hits), cross_entropy(logits, label)


def check(**settings):
    dense_head.check("attentive", **settings)
