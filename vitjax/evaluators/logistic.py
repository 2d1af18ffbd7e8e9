"""Logistic regression with an L2 penalty, as in DINOv2 (eval/log_regression.py) for small sets.

N examples, D width, C classes; the inverse of the penalty is called C in the field, and `grid`
here. One solver and one scale of the penalty for any number of classes: the softmax over all.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch
from vitjax.evaluators.linear import logits_of, split

GRID = tuple(float(c) for c in 10.0 ** np.linspace(-6, 5, 45))
# Of the squared gradient in scaled coordinates, in units of the loss: the loss is then within 1e-6
# of its minimum or so, unless C is so large that nothing but the penalty is left of it.
TOLERANCE = np.float32(1e-10)


def run(
    train: Frozen,
    validation: Frozen,
    *,
    grid: Sequence[float] = GRID,
    holdout: float = 0.1,
    seed: int = 0,
    iterations: int = 1000,
) -> dict[str, float]:
    """{"top1", "mean_per_class" (accuracy), "C" (the chosen one), "holdout_top1"}.

    Minimises sum of cross-entropies + |kernel|^2 / (2 C), the bias free, by L-BFGS. A share
    `holdout` of train chooses C (the most accurate; among equals the lowest cross-entropy); all of
    train is fitted again with it. Features as they come. The solver is ours, in float32, because
    scikit-learn's takes minutes at this tolerance: the same minimum. Under a mesh (jax.set_mesh)
    the examples are cut over all its devices.
    """
    check(grid=grid, holdout=holdout, seed=seed, iterations=iterations)
    if len(train.label) < 2:
        raise ValueError(
            f"evaluators.logistic: {len(train.label)} train example cannot both train and choose C;"
            " use a larger train split"
        )
    held, _ = split(len(train.label), holdout, seed)
    mesh = evaluation_mesh()
    # One host's axes for all: another BLAS may turn axes of equal variance otherwise.
    mean, axes, variance = multihost_utils.broadcast_one_to_all(principal_axes(train.pooled))

    def place(rows):
        """Zeros fill up the last device: they weigh nothing, or are cut off at the end."""
        padding = ((0, -len(rows) % mesh.size), *((0, 0),) * (rows.ndim - 1))
        return cut(np.pad(rows, padding), mesh, 0)

    def turn(pooled):
        return place((pooled - mean[None, :]) @ axes)

    rows, label = turn(train.pooled), place(train.label)
    everyone = np.ones(len(train.label), np.float32)
    choosing = np.zeros(len(train.label), np.float32)
    choosing[held] = 1.0

    def minimise(head, c, weight):
        c, count = np.float32(c), np.int32(iterations)
        return fetch(
            solve(rows, label, head, c, weight=weight, variance=variance, iterations=count)
        )

    classes = int(train.label.max()) + 1
    head = start = {
        "kernel": np.zeros((train.pooled.shape[1], classes), np.float32),
        "bias": np.zeros(classes, np.float32),
    }
    scores, cs = [], sorted(grid)
    for c in cs:  # each starts where the one before it ended
        head = minimise(head, c, place(everyone - choosing))
        scores.append(fetch(score(head, rows, label, place(choosing))))
    accuracy, loss = np.stack(scores).T
    chosen = int(np.lexsort((loss, -accuracy))[0])
    head = minimise(start, cs[chosen], place(everyone))
    predicted = fetch(predict(head, turn(validation.pooled)))[: len(validation.label)]

    hits = predicted == validation.label
    _, label = np.unique(validation.label, return_inverse=True)
    return {
        "top1": float(hits.mean()),
        "mean_per_class": float(np.mean(np.bincount(label, hits) / np.bincount(label))),
        "C": cs[chosen],
        "holdout_top1": float(accuracy[chosen]),
    }


def principal_axes(pooled):
    """Mean [D], principal axes [D, D] (one a column), variance [D] along each; float32.

    The minimum is the same in coordinates along these axes, from the mean: the penalty does not
    see a rotation, and the bias, which is not penalised, takes up the shift. But there the
    curvature is nearly diagonal, so its size is known.
    """
    mean = pooled.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = pooled - mean[None, :]
    variance, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(pooled))
    return mean, axes.astype(np.float32), np.maximum(variance, 0).astype(np.float32)


def cross_entropy(head, rows, label, weight):
    """Weighted mean over rows [N, D] with label [N], weight [N]."""
    log_p = jax.nn.log_softmax(logits_of(head, rows), axis=1)
    # A label that the head has no logit for is NaN: none is among those that train or choose.
    true = jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return -jnp.sum(weight * true) / jnp.sum(weight)


@jax.jit
def solve(rows, label, head, c, *, weight, variance, iterations):
    """The head {"kernel": [D, C], "bias": [C]} of least cross-entropy + |kernel|^2 / (2 c n).

    rows [N, D], label [N], weight [N]: 1 for the n rows to fit, else 0. head: where to start.
    L-BFGS with the zoom line search of Optax, memory 10, on a kernel divided by `unit`: 1 / unit^2
    is a bound of the curvature, half the variance (that of softmax is at most 1/2) and the penalty.
    """
    penalty = 1.0 / (c * jnp.sum(weight))
    unit = jax.lax.rsqrt(0.5 * variance + penalty)[:, None]

    def loss(scaled):
        head = scaled | {"kernel": scaled["kernel"] * unit}
        decay = 0.5 * penalty * jnp.sum(head["kernel"] ** 2)
        return cross_entropy(head, rows, label, weight) + decay

    optimizer = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        scaled, state, count, _ = carry
        value, grad = value_and_grad(scaled, state=state)
        updates, state = optimizer.update(
            grad, state, scaled, value=value, grad=grad, value_fn=loss
        )
        scaled = optax.apply_updates(scaled, updates)
        slope = optax.tree.norm(optax.tree.get(state, "grad"), squared=True)
        return scaled, state, count + 1, slope / optax.tree.get(state, "value")

    def unfinished(carry):
        return (carry[2] < iterations) & (carry[3] > TOLERANCE)

    scaled = head | {"kernel": head["kernel"] / unit}
    begin = (scaled, optimizer.init(scaled), jnp.int32(0), jnp.float32(jnp.inf))
    scaled = jax.lax.while_loop(unfinished, step, begin)[0]
    return scaled | {"kernel": scaled["kernel"] * unit}


@jax.jit
def score(head, rows, label, weight):
    """Accuracy and cross-entropy [2] over the rows of weight 1."""
    hits = (jnp.argmax(logits_of(head, rows), axis=1) == label).astype(jnp.float32)
    accuracy = jnp.sum(weight * hits) / jnp.sum(weight)
    return jnp.stack([accuracy, cross_entropy(head, rows, label, weight)])


@jax.jit
def predict(head, rows):
    return jnp.argmax(logits_of(head, rows), axis=1)


def check(*, grid, holdout, seed, iterations):
    if not isinstance(grid, Sequence) or not grid or not min(grid) > 0:
        raise ValueError(f"evaluators.logistic.grid={grid!r}: expected a list of numbers above 0")
    if not 0.0 < holdout < 1.0:
        raise ValueError(f"evaluators.logistic.holdout={holdout}: expected a share between 0 and 1")
    if seed < 0:
        raise ValueError(f"evaluators.logistic.seed={seed}: expected at least 0")
    if iterations < 1:
        raise ValueError(f"evaluators.logistic.iterations={iterations}: expected at least 1")
