"""Heads of a grid: AdamW as optax has it, each as if it were alone, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from planted import eight_devices

from vitjax.evaluators import dense_head
from vitjax.evaluators.dense_head import Schedule
from vitjax.evaluators.linear import minibatches
from vitjax.evaluators.maps import upsampling

SCHEDULE = Schedule(steps=40, batch_size=4, warmup=0.2, seed=3)
LRS, DECAYS = (1e-3, 1e-2, 1e-1), (0.0, 0.3)


def data():
    rng = np.random.default_rng(0)
    patches = rng.normal(2.0, 5.0, (11, 3, 2, 5)).astype(np.float32)
    return {
        "patches": patches,
        "target": rng.normal(size=(11, 3, 2, 4)).astype(np.float32),
        "scale": dense_head.scale_of(patches),
    }


def error(shared, head, at):
    outputs = dense_head.outputs_of(head, shared["scale"], shared["patches"][at])
    return jnp.mean((outputs - shared["target"][at]) ** 2)


def train_one(shared, setting):
    return dense_head.descend(lambda head, at, step: error(shared, head, at), shared, setting)


def fit(lrs=LRS, decays=DECAYS):
    settings = {"outputs": 4, "lrs": lrs, "weight_decays": decays, "schedule": SCHEDULE}
    return dense_head.fit(train_one, data(), **settings)


def test_every_head_of_the_grid_is_adamw_as_optax_has_it():
    got, shared = fit(), jax.tree.map(jnp.asarray, data())
    assert got.kernel.shape == (6, 5, 4) and got.bias.shape == (6, 4)
    start = np.random.default_rng(3).normal(scale=0.01, size=(5, 4)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda head, at: error(shared, head, at)))
    factors = jnp.asarray(SCHEDULE.factors())
    for i in (0, 3, 5):
        lr, decay = LRS[i // 2], DECAYS[i % 2]
        tx = optax.adamw(
            lambda step, lr=lr: lr * factors[step],
            b2=0.999,
            weight_decay=decay,
            mask=dense_head.Head(kernel=True, bias=False),
        )
        head = dense_head.Head(jnp.asarray(start), jnp.zeros(4))
        state = tx.init(head)
        for at in minibatches(11, 40, 4, seed=3):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = tx.update(gradient(head, at), state, head)
            head = optax.apply_updates(head, updates)
        np.testing.assert_allclose(got.kernel[i], head.kernel, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(got.bias[i], head.bias, rtol=1e-3, atol=1e-5)


def test_a_head_of_the_grid_is_the_head_alone_on_one_device_and_on_eight():
    together = fit()
    np.testing.assert_allclose(
        fit((LRS[1],), (DECAYS[1],)).kernel[0], together.kernel[3], atol=1e-5
    )
    mesh = eight_devices()
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(fit().kernel, together.kernel, atol=1e-5)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero_by_a_cosine():
    factors = Schedule(steps=100, batch_size=1, warmup=0.2, seed=0).factors()
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 20, rtol=1e-6)
    want = optax.cosine_decay_schedule(1.0, 80)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(factors[20:], want(np.arange(80)), atol=1e-6)
    assert len(Schedule(steps=1, batch_size=1, warmup=0.3, seed=0).factors()) == 1


def test_statistics_are_those_of_the_patches():
    patches = data()["patches"]
    mean, deviation = dense_head.scale_of(patches)
    np.testing.assert_allclose(mean, patches.astype(float).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, patches.astype(float).std((0, 1, 2)), rtol=1e-4)


def test_resizing_upsamples_height_and_width_each_by_its_weights():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    got = dense_head.resize(maps, upsampling(12, 3), upsampling(12, 4))
    want = jax.image.resize(maps, (2, 12, 12, 5), "linear")
    np.testing.assert_allclose(got, want, atol=1e-5)
