"""Linear probe: a grid of heads trained in one program.

The grid (13 learning rates x last 1 or 4 blocks x with or without mean patch), optimizer and
schedule of DINOv2 (arXiv:2304.07193, sec. 7.1). Its own protocol encodes augmented images at every
step (augment=True); cheap enough to run often is the cached variant: features without augmentation,
standardised. The numbers of one do not compare with those of the other.

N examples, D width of all inputs together, C classes, L heads, B batch.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch

LRS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
MOMENTUM = 0.9


def run(
    train: Frozen,
    validation: Frozen,
    *,
    lrs: Sequence[float] = LRS,
    layers: Sequence[int] = (1, 4),
    mean_patch: Sequence[bool] = (False, True),
    steps: int = 12_500,
    batch_size: int = 1024,
    holdout: float = 0.1,
    seed: int = 0,
    weight_decay: float = 0.0,
    augment: bool = False,
) -> dict[str, float]:
    """{"top1", "lr", "layers", "mean_patch" (of the chosen head), "holdout_top1" (its accuracy
    where it was chosen)}.

    A head for each learning rate, number of last blocks (the image vector of each; an encoder with
    fewer gives what it has) and choice whether the mean patch of the last map is beside them. A
    share `holdout` of train chooses the head (the most accurate; among equals, as there are in
    small splits, the lowest cross-entropy); the rest trains it.
    Learning rates are per 256 examples, and fall to 0 by a cosine over the steps. batch_size is at
    most the examples there are to train on. augment: encode a random crop, flipped or not, of every
    image at every step, and do not standardise. The number of devices has no say in the protocol:
    under a mesh (jax.set_mesh) the width D of cached features is cut over them.
    """
    check(
        lrs=lrs,
        layers=layers,
        mean_patch=mean_patch,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
        weight_decay=weight_decay,
        augment=augment,
    )
    if len(train.label) < 2:
        raise ValueError(
            f"evaluators.linear: {len(train.label)} train example cannot both train and choose a "
            "head; use a larger train split"
        )
    grid = [(lr, n, mean) for n in layers for mean in mean_patch for lr in lrs]
    read = functools.partial(inputs, layers=max(layers), mean_patch=any(mean_patch))
    parts = read(train)
    held, rest = split(len(train.label), holdout, seed)
    place = placing([part[rest] for part in parts], standardise=not augment)

    batch_size = batch_size if augment else min(batch_size, len(rest))
    rates = np.asarray([lr for lr, _, _ in grid], np.float32) * np.float32(batch_size / 256)
    shared = {
        "masks": masks_of(grid, parts, any(mean_patch)),
        "seed": seed,
        "classes": int(train.label.max()) + 1,
        "widths": tuple(part.shape[1] for part in parts),
        "weight_decay": weight_decay,
    }
    if augment:
        stream = ((read(b), b.label) for b in train.stream(rest, steps, batch_size, seed))
        heads = fit_stream(stream, rates, steps, **shared)
    else:
        batches = minibatches(len(rest), steps, batch_size, seed)
        rows = place([part[rest] for part in parts])
        heads = fit(rows, train.label[rest], batches, rates, **shared)

    to_choose = place([part[held] for part in parts])
    scores, losses = fetch(score(heads, to_choose, train.label[held]))
    chosen = int(np.lexsort((losses, -scores))[0])  # NaN sorts last: a head that diverged
    best = jax.tree.map(lambda leaf: leaf[chosen : chosen + 1], heads)
    final, _ = fetch(score(best, place(read(validation)), validation.label))
    lr, blocks, with_patches = grid[chosen]
    return {
        "top1": float(final[0]),
        "lr": float(lr),
        "layers": float(blocks),
        "mean_patch": float(with_patches),
        "holdout_top1": float(scores[chosen]),
    }


def placing(parts: Sequence[np.ndarray], standardise: bool) -> Callable:
    """place(parts [n, D_l] each) -> rows [n, D] on the devices, where they divide D cut over them;
    standardised by the columns of the `parts` given here, or as they come."""
    mesh = evaluation_mesh()
    whole = np.concatenate(parts, axis=1)
    mean, scale = np.zeros_like(whole[0]), np.ones_like(whole[0])
    if standardise:
        mean = whole.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = whole.std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(1e-5)

    def place(parts):
        rows = (np.concatenate(parts, axis=1) - mean[None, :]) / scale[None, :]
        return cut(rows, mesh, 1) if rows.shape[1] % mesh.size == 0 else rows

    return place


def masks_of(grid, parts: Sequence[np.ndarray], mean_patch: bool) -> np.ndarray:
    """bool [L, D]: what each head of a grid reads of the `inputs`, mean patch among them or not."""
    widths, blocks = [part.shape[1] for part in parts], len(parts) - mean_patch
    return np.stack([mask(widths, blocks, n, mean) for _, n, mean in grid])


def inputs(frozen: Frozen, layers: int, mean_patch: bool) -> list[np.ndarray]:
    """What heads read, [N, D_l] each: image vectors of the last blocks, last first; mean patch."""
    blocks = [frozen.pooled, *(frozen.layers or ())[1:layers]]
    return [*blocks, frozen.patch_mean] if mean_patch else blocks


def mask(widths: Sequence[int], blocks: int, layers: int, mean_patch: bool) -> np.ndarray:
    """bool [D]: which of the concatenated `inputs` a head reads: the first `layers` of the blocks,
    and the mean patch, which follows them, or not. widths: of the inputs."""
    reads = [index < layers if index < blocks else mean_patch for index in range(len(widths))]
    return np.repeat(np.asarray(reads), widths)


def split(examples: int, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the held-out examples and of the rest: a permutation by the seed, cut in two."""
    order = np.random.default_rng(seed).permutation(examples)
    held = min(max(1, round(holdout * examples)), examples - 1)
    return np.sort(order[:held]), np.sort(order[held:])


def minibatches(examples: int, steps: int, batch_size: int, seed: int) -> np.ndarray:
    """int32 [steps, B]: one permutation after the other, an epoch each, cut into batches."""
    epochs = -(-steps * batch_size // examples)
    order = [np.random.default_rng((seed, epoch)).permutation(examples) for epoch in range(epochs)]
    order = np.concatenate(order)[: steps * batch_size]
    return order.astype(np.int32).reshape(steps, batch_size)


def logits_of(head, rows):
    product = jnp.matmul(rows, head["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + head["bias"][None, :]


@functools.partial(jax.jit, static_argnames=("classes", "widths", "weight_decay"))
def fit(rows, label, batches, lrs, *, masks, seed, classes, widths, weight_decay):
    """Train on cached features. rows [N, D], label [N], batches [steps, B], lrs [L], masks [L, D]
    (what each head reads) -> heads {"kernel": [L, D, C], "bias": [L, C]}.

    SGD: v <- 0.9 v + g + weight_decay * kernel, head <- head - lr_t v, lr_t = lr (1 + cos(pi t /
    steps)) / 2. Heads see the same batches and begin alike: a head is what it would be alone.
    """
    steps = batches.shape[0]

    def step(carry, inputs):
        at, t = inputs
        return update(
            *carry, rows[at], label[at], lrs * cosine(t, steps), masks, weight_decay
        ), None

    start = initial(masks, seed, classes, widths)
    return jax.lax.scan(step, start, (batches, jnp.arange(steps, dtype=jnp.float32)))[0][0]


def fit_stream(batches, lrs, steps, *, masks, seed, classes, widths, weight_decay):
    """Train as `fit` does, on features that come: batches of (inputs [B, D_l] each, label [B])."""
    heads, velocity = jax.jit(initial, static_argnums=(1, 2, 3))(masks, seed, classes, widths)
    train = jax.jit(update, static_argnums=6, donate_argnums=(0, 1))
    for t, (parts, label) in enumerate(batches):
        rates = lrs * np.asarray(cosine(t, steps), np.float32)
        rows = jnp.concatenate(parts, axis=1)
        heads, velocity = train(heads, velocity, rows, label, rates, masks, weight_decay)
    return heads


def cosine(t, steps):
    return 0.5 * (1.0 + jnp.cos(t * (jnp.pi / steps)))


def initial(masks, seed, classes, widths):
    """Heads N(0, 0.01), bias 0, and their velocities, 0.

    One draw for each part of the input (widths, their sum D), so that what is drawn for a part does
    not depend on the others. Kernels of one size, zero where a head does not read, make one matrix
    product of the whole grid.
    """
    keys = [jax.random.fold_in(jax.random.key(seed), part) for part in range(len(widths))]
    draws = [jax.random.normal(k, (D, classes)) for k, D in zip(keys, widths, strict=True)]
    kernel = 0.01 * jnp.concatenate(draws, axis=0)
    heads = {
        "kernel": jnp.where(masks[:, :, None], kernel[None], 0.0),
        "bias": jnp.zeros((masks.shape[0], classes), jnp.float32),
    }
    return heads, jax.tree.map(jnp.zeros_like, heads)


def update(heads, velocity, rows, label, lrs, masks, weight_decay):
    """One step of every head on one batch; lrs [L] of this step."""

    def loss(head):
        log_p = jax.nn.log_softmax(logits_of(head, rows), axis=1)
        decay = 0.5 * weight_decay * jnp.sum(head["kernel"] ** 2)
        return decay - jnp.mean(jnp.take_along_axis(log_p, label[:, None], axis=1))

    def one(head, velocity, lr, reads):
        grads = jax.grad(loss)(head)
        grads = grads | {"kernel": jnp.where(reads[:, None], grads["kernel"], 0.0)}
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
        return jax.tree.map(lambda w, v: w - lr * v, head, velocity), velocity

    return jax.vmap(one)(heads, velocity, lrs, masks)


@jax.jit
def score(heads, rows, label):
    """Accuracy [L] and cross-entropy [L] of each head.

    One head at a time: L times fewer logits are held at once.
    """

    def one(head):
        logits = logits_of(head, rows)
        # A label that train lacks has no logit: NaN here, and a miss above.
        true = jnp.take_along_axis(
            jax.nn.log_softmax(logits, axis=1), label[:, None], axis=1, mode="fill"
        )
        return jnp.mean((jnp.argmax(logits, axis=1) == label).astype(jnp.float32)), -jnp.mean(true)

    return jax.lax.map(one, heads)


def check(*, lrs, layers, mean_patch, steps, batch_size, holdout, seed, weight_decay, augment):
    if not isinstance(lrs, Sequence) or not lrs or not min(lrs) > 0:
        raise ValueError(f"evaluators.linear.lrs={lrs!r}: expected a list of rates above 0")
    if not isinstance(layers, Sequence) or not layers or not set(layers) <= {1, 2, 3, 4}:
        raise ValueError(f"evaluators.linear.layers={layers!r}: expected a list of 1 to 4")
    if not isinstance(mean_patch, Sequence) or not set(mean_patch) <= {False, True}:
        raise ValueError(
            f"evaluators.linear.mean_patch={mean_patch!r}: expected a list of False and True"
        )
    if seed < 0:
        raise ValueError(f"evaluators.linear.seed={seed}: expected at least 0")
    if steps < 1:
        raise ValueError(f"evaluators.linear.steps={steps}: expected at least 1")
    if batch_size < 1:
        raise ValueError(f"evaluators.linear.batch_size={batch_size}: expected at least 1")
    if not 0.0 < holdout < 1.0:
        raise ValueError(f"evaluators.linear.holdout={holdout}: expected a share between 0 and 1")
    if augment not in (False, True):
        raise ValueError(f"evaluators.linear.augment={augment!r}: expected True or False")
    if weight_decay < 0:
        raise ValueError(f"evaluators.linear.weight_decay={weight_decay}: expected at least 0")
