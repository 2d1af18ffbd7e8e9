"""A 1x1 convolution on cached patch features, every setting of a grid trained in one program.

Features are standardised by their mean and deviation over the training patches, which is BatchNorm
without affine parameters and with exact statistics. The optimizer is AdamW.

N images of S x S pixels, h x w patches, D width, C outputs, G settings, B batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitjax.evaluators.linear import minibatches
from vitjax.evaluators.maps import each_row


class Head(NamedTuple):
    """Heads of G settings, or one of them without the leading G."""

    kernel: np.ndarray  # [G, D, C]
    bias: np.ndarray  # [G, C]


class Scale(NamedTuple):
    """Statistics of the training patches, float32 [D]."""

    mean: np.ndarray
    deviation: np.ndarray


class Schedule(NamedTuple):
    """Linear warm-up over `warmup` of the steps, then a cosine to 0."""

    steps: int
    batch_size: int
    warmup: float
    seed: int

    def factors(self) -> np.ndarray:
        """float32 [steps]: what the learning rate is multiplied by."""
        at = np.arange(self.steps)
        rising = max(1, round(self.warmup * self.steps))
        cosine = 0.5 * (1 + np.cos(np.pi * (at - rising) / max(1, self.steps - rising)))
        return np.where(at < rising, (at + 1) / rising, cosine).astype(np.float32)


def scale_of(patches: np.ndarray) -> Scale:
    rows = patches.reshape(-1, patches.shape[-1])
    deviation = rows.std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(1e-5)
    return Scale(rows.mean(axis=0, dtype=np.float64).astype(np.float32), deviation)


def outputs_of(head: Head, scale: Scale, patches: jax.Array) -> jax.Array:
    """patches [..., h, w, D] through one head: [..., h, w, C]."""
    rows = patches.reshape(-1, patches.shape[-1])
    rows = (rows - scale.mean[None, :]) / scale.deviation[None, :]
    product = jnp.matmul(rows, head.kernel, precision=jax.lax.Precision.HIGHEST)
    return (product + head.bias[None, :]).reshape(*patches.shape[:-1], -1)


def resize(maps: jax.Array, down: jax.Array, across: jax.Array) -> jax.Array:
    """maps [..., h, w, C] by weights [S, h] and [S, w] (maps.upsampling): [..., S, S, C]."""
    return jnp.einsum(
        "yh,...hwc,xw->...yxc", down, maps, across, precision=jax.lax.Precision.HIGHEST
    )


def fit(
    train_one: Callable,
    data: dict,
    *,
    outputs: int,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    schedule: Schedule,
) -> Head:
    """Heads of the grid, weight decays running faster than rates, all from one draw of N(0, 0.01).

    data: {"patches": [N, h, w, D], ...}, what train_one(shared, setting) -> Head needs: a function
    of a module that calls `descend` with its loss. Under a mesh the settings are cut over the
    devices, each of which holds all the data.
    """
    start = np.random.default_rng(schedule.seed).normal(
        scale=0.01, size=(data["patches"].shape[-1], outputs)
    )
    images = len(data["patches"])
    batch_size = min(schedule.batch_size, images)
    shared = data | {
        "start": Head(start.astype(np.float32), np.zeros(outputs, np.float32)),
        "batches": minibatches(images, schedule.steps, batch_size, schedule.seed),
        "factors": schedule.factors(),
    }
    grid = np.asarray([(lr, decay) for lr in lrs for decay in weight_decays], np.float32)
    return each_row(train_one, shared, {"lr": grid[:, 0], "decay": grid[:, 1]}, together=True)


def descend(loss: Callable, shared: dict, setting: dict) -> Head:
    """Minimise loss(head, batch at [B], step) by AdamW; the bias is not decayed."""
    adam = optax.scale_by_adam(b1=0.9, b2=0.999)

    def step(carry, inputs):
        head, moments = carry
        at, factor, number = inputs
        gradient = jax.grad(loss)(head, at, number)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the step count
            update, moments = adam.update(gradient, moments)
        update = update._replace(kernel=update.kernel + setting["decay"] * head.kernel)
        lr = setting["lr"] * factor
        return (jax.tree.map(lambda w, u: w - lr * u, head, update), moments), None

    start = jax.tree.map(jnp.asarray, shared["start"])
    numbers = jnp.arange(len(shared["factors"]))
    inputs = shared["batches"], shared["factors"], numbers
    return jax.lax.scan(step, (start, adam.init(start)), inputs)[0][0]


def check(evaluator, *, steps, batch_size, holdout, seed, **rates):
    """The settings that every dense head has; rates: lists of numbers, above 0 where `lrs`."""
    for key, values in rates.items():
        least = "above 0" if key == "lrs" else "of at least 0"
        given = isinstance(values, Sequence) and len(values) > 0
        if not given or not all(each > 0 or (key != "lrs" and each == 0) for each in values):
            raise ValueError(
                f"evaluators.{evaluator}.{key}={values!r}: expected a list of numbers {least}"
            )
    for key, value, least in (
        ("steps", steps, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"evaluators.{evaluator}.{key}={value}: expected at least {least}")
    if not 0.0 < holdout < 1.0:
        raise ValueError(
            f"evaluators.{evaluator}.holdout={holdout}: expected a share between 0 and 1"
        )
