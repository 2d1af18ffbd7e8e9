"""One step for every objective: the same numbers on every mesh, and with accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.objectives import Objective
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup, start
from vitjax.train.state import init_state
from vitjax.train.step import make_step

ENCODERS = {
    "vit": {"name": "vit", "variant": "Ti/2", "width": 32, "depth": 2, "mlp": 64, "heads": 4},
    "resnet": {"name": "resnet", "variant": "18", "width": 0.25, "stem": "small"},
}
MESHES = {
    "one": {"data": 1},
    "data": {"data": 8},
    "fsdp": {"data": 8},
    "tensor": {"data": 2, "model": 4},
    "all": {"replica": 2, "data": 2, "model": 2},
}
STEPS = 5


def losses(recipe, mesh_name, encoder):
    """Loss of each of a few steps on the digits under a mesh."""
    recipe = recipe | {
        "encoder": encoder,
        "optimizer": {"name": "sgd", "lr": 0.05, "schedule": {"name": "constant"}},
        "views": recipe["views"] | {"mixup": 0.3, "cutmix": 0.5},
        "sharding": {
            "parameters": "replicated" if mesh_name == "data" else "fsdp",
            "min_size": 0,
        },
    }
    recipe = recipe_lib.read(recipe)
    devices = jax.devices()[:1] if mesh_name == "one" else None
    mesh = mesh_lib.make_mesh(**MESHES[mesh_name], devices=devices)
    splits = start.open_splits(recipe)
    with jax.set_mesh(mesh), start.open_batches(recipe, splits["train"], None) as batches:
        experiment = setup.build(recipe, mesh, train_examples=len(splits["train"]))
        state, trace = experiment.init(), []
        for _ in range(STEPS):
            state, metrics = experiment.step(state, mesh_lib.put_batch(next(batches), mesh))
            trace.append(float(metrics["loss"]))
    return np.array(trace), state


@pytest.fixture(scope="module")
def one_device():
    return {}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("mesh_name", [name for name in MESHES if name != "one"])
def test_every_mesh_gives_the_loss_trace_of_one_device(recipe, one_device, mesh_name, encoder):
    if encoder not in one_device:
        one_device[encoder] = losses(recipe, "one", ENCODERS[encoder])[0]
    want = one_device[encoder]
    got, state = losses(recipe, mesh_name, ENCODERS[encoder])
    print(f"{encoder} {mesh_name}: largest relative difference {np.abs(got / want - 1).max():.1e}")
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert abs(want[-1] - want[0]) > 1e-2  # the trace moves: equality is not that of a standstill
    kernels = [leaf.sharding.spec for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    cut = {axis for spec in kernels for axis in spec if axis is not None}
    assert cut == {"data": set(), "fsdp": {"data"}}.get(mesh_name, {"data", "model"})


def quadratic(noise=0.0):
    """A least-squares objective whose extra counts the updates that were kept."""

    def loss(params, extra, views, key, step):
        del step
        value = jnp.mean((views["x"] @ params["w"] - views["y"]) ** 2)
        metrics = {"rows": jnp.sum(views["y"] * 0 + 1)}
        return value + noise * jax.random.normal(key), (metrics, extra)

    return Objective(
        init=lambda key: ({"w": jax.random.normal(key, (3,))}, {"updates": jnp.float32(0)}),
        loss=loss,
        after=lambda params, extra, step: {"updates": extra["updates"] + 1},
        encoder_variables=lambda params, extra: None,
    )


def quadratic_step(accumulate=1, noise=0.0):
    """(the state at step 0, the jitted step) of gradient descent on `quadratic`."""
    objective, tx = quadratic(noise), optax.sgd(0.1)
    step = make_step(
        objective=objective,
        tx=tx,
        schedule=lambda step: 0.1,
        views=lambda batch, key: batch,
        seed=0,
        accumulate=accumulate,
    )
    return init_state(objective, tx, 0), jax.jit(step)


def run_quadratic(batch, accumulate=1, noise=0.0, steps=3):
    state, step = quadratic_step(accumulate, noise)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in rows.items()}


def test_a_step_is_gradient_descent(batch):
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
    w = np.asarray(init_state(quadratic(), optax.sgd(0.1), 0).params["w"], np.float64)
    for _ in range(3):
        w = w - 0.1 * 2 / 8 * x.T @ (x @ w - y)
    state, _ = run_quadratic(batch)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    assert int(state.step) == 3


def test_accumulation_changes_memory_and_not_the_update(batch):
    whole, _ = run_quadratic(batch)
    parts, metrics = run_quadratic(batch, accumulate=4)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-6)
    assert float(metrics["rows"]) == 2  # each micro-batch had a quarter of the rows


def test_micro_batches_draw_different_noise(batch):
    losses = [float(run_quadratic(batch, n, noise=1.0, steps=1)[1]["loss"]) for n in (1, 2)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_loss_that_is_not_finite_leaves_everything_but_the_counter(batch):
    before, _ = run_quadratic(batch, steps=2)
    _, step = quadratic_step()
    broken = batch | {"y": batch["y"].at[3].set(jnp.nan)}
    after, metrics = step(before, broken)
    assert float(metrics["skipped"]) == 1 and int(after.step) == 3
    np.testing.assert_array_equal(after.params["w"], before.params["w"])
    assert float(after.extra["updates"]) == float(before.extra["updates"]) == 2


def test_lowering_does_not_grow_with_depth(recipe):
    def size(depth):
        settings = recipe_lib.read(recipe | {"encoder": recipe["encoder"] | {"depth": depth}})
        mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            experiment = setup.build(settings, mesh, train_examples=100)
            lowered = experiment.step.lower(experiment.target, setup.batch_target(settings, mesh))
        return len(lowered.as_text())

    assert size(12) < 1.01 * size(3)
