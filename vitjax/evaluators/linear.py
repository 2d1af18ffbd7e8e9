"""Linear probe on cached features: every learning rate of a grid trained in one program.

The grid, optimizer and schedule of DINOv2 (arXiv:2304.07193, sec. 7.1), in the cached variant:
features without augmentation, standardised. Its numbers do not compare with those of a probe
trained on augmented images.

N examples, D width, C classes, L learning rates, B batch.
"""

import functools
from collections.abc import Sequence

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
    steps: int = 12_500,
    batch_size: int = 1024,
    holdout: float = 0.1,
    seed: int = 0,
    weight_decay: float = 0.0,
) -> dict[str, float]:
    """{"top1", "lr" (the chosen one), "holdout_top1" (its accuracy where it was chosen)}.

    A share `holdout` of train chooses the head (the most accurate; among equals, as there are in
    small splits, the lowest cross-entropy); the rest trains it.
    Learning rates are per 256 examples, and fall to 0 by a cosine over the steps. batch_size is at
    most the examples there are to train on. The number of devices has no say in the protocol:
    under a mesh (jax.set_mesh) the width D is cut over them.
    """
    check(
        lrs=lrs,
        steps=steps,
        batch_size=batch_size,
        holdout=holdout,
        seed=seed,
        weight_decay=weight_decay,
    )
    if len(train.label) < 2:
        raise ValueError(
            f"evaluators.linear: {len(train.label)} train example cannot both train and choose a "
            "head; use a larger train split"
        )
    held, rest = split(len(train.label), holdout, seed)
    to_fit = train.pooled[rest]
    mean = to_fit.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = to_fit.std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(1e-5)
    mesh = evaluation_mesh()

    def place(pooled):
        rows = (pooled - mean[None, :]) / scale[None, :]
        return cut(rows, mesh, 1) if rows.shape[1] % mesh.size == 0 else rows

    batch_size = min(batch_size, len(rest))
    heads = fit(
        place(to_fit),
        train.label[rest],
        minibatches(len(rest), steps, batch_size, seed),
        np.asarray(lrs, np.float32) * np.float32(batch_size / 256),
        seed=seed,
        classes=int(train.label.max()) + 1,
        weight_decay=weight_decay,
    )
    scores, losses = fetch(score(heads, place(train.pooled[held]), train.label[held]))
    chosen = int(np.lexsort((losses, -scores))[0])  # NaN sorts last: a head that diverged
    best = jax.tree.map(lambda leaf: leaf[chosen : chosen + 1], heads)
    final, _ = fetch(score(best, place(validation.pooled), validation.label))
    return {
        "top1": float(final[0]),
        "lr": float(lrs[chosen]),
        "holdout_top1": float(scores[chosen]),
    }


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


@functools.partial(jax.jit, static_argnames=("classes", "weight_decay"))
def fit(rows, label, batches, lrs, *, seed, classes, weight_decay):
    """rows [N, D], label [N], batches [steps, B], lrs [L] -> {"kernel": [L, D, C], "bias": [L, C]}.

    SGD: v <- 0.9 v + g + weight_decay * kernel, head <- head - lr_t v, lr_t = lr (1 + cos(pi t /
    steps)) / 2. All heads start from one draw of N(0, 0.01) (bias 0) and see the same batches:
    they differ by their learning rate alone.
    """
    steps = batches.shape[0]
    kernel = 0.01 * jax.random.normal(jax.random.key(seed), (rows.shape[1], classes), jnp.float32)
    start = {"kernel": kernel, "bias": jnp.zeros(classes, jnp.float32)}
    factors = 0.5 * (1.0 + jnp.cos(jnp.arange(steps, dtype=jnp.float32) * (jnp.pi / steps)))

    def loss(head, at):
        log_p = jax.nn.log_softmax(logits_of(head, rows[at]), axis=1)
        decay = 0.5 * weight_decay * jnp.sum(head["kernel"] ** 2)
        return decay - jnp.mean(jnp.take_along_axis(log_p, label[at][:, None], axis=1))

    def train(lr):
        def step(carry, inputs):
            head, velocity = carry
            at, factor = inputs
            grads = jax.grad(loss)(head, at)
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
            return (jax.tree.map(lambda w, v: w - lr * factor * v, head, velocity), velocity), None

        still = jax.tree.map(jnp.zeros_like, start)
        return jax.lax.scan(step, (start, still), (batches, factors))[0][0]

    return jax.vmap(train)(lrs)


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


def check(*, lrs, steps, batch_size, holdout, seed, weight_decay):
    if not isinstance(lrs, Sequence) or not lrs or not min(lrs) > 0:
        raise ValueError(f"evaluators.linear.lrs={lrs!r}: expected a list of rates above 0")
    if seed < 0:
        raise ValueError(f"evaluators.linear.seed={seed}: expected at least 0")
    if steps < 1:
        raise ValueError(f"evaluators.linear.steps={steps}: expected at least 1")
    if batch_size < 1:
        raise ValueError(f"evaluators.linear.batch_size={batch_size}: expected at least 1")
    if not 0.0 < holdout < 1.0:
        raise ValueError(f"evaluators.linear.holdout={holdout}: expected a share between 0 and 1")
    if weight_decay < 0:
        raise ValueError(f"evaluators.linear.weight_decay={weight_decay}: expected at least 0")
