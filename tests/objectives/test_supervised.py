"""The supervised objective on a stand-in encoder: one linear layer, one running mean."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import objectives
from vitjax.models.features import Features

B, S, C, D = 6, 4, 3, 5
RUNNING = 0.75  # share of the running mean that a train step keeps


def encoder():
    """pooled = (channel means - centre) @ kernel; the centre is the batch's, or in eval running."""

    def init(key, image_size):
        kernel = jax.random.normal(key, (3, D)) + image_size
        return {"params": {"kernel": kernel}, "stats": {"mean": jnp.zeros(3)}}

    def apply(variables, images, train=False, key=None, mask=None, layers=()):
        means, mean = images.mean((1, 2)), variables["stats"]["mean"]
        stats = (
            {"mean": RUNNING * mean + (1 - RUNNING) * means.mean(0)} if train else {"mean": mean}
        )
        centre = means.mean(0) if train else mean
        pooled = (means - centre[None, :]) @ variables["params"]["kernel"]
        if key is not None:
            pooled = pooled + jax.random.normal(key, pooled.shape)
        return Features(pooled, pooled[:, None, None, :], {}, {}, pooled[:, None, :]), stats

    return SimpleNamespace(name="stand-in", width=D, stride=S, layers=(), init=init, apply=apply)


def create(**settings):
    return objectives.create("supervised", encoder=encoder(), image_size=S, classes=C, **settings)


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    label = rng.dirichlet(np.ones(C), size=B)
    image = rng.normal(size=(B, S, S, 3)) + 1
    return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label, jnp.float32)}


def shifted(tree, by):
    return jax.tree.map(lambda leaf: leaf + by, tree)


def uneven(tree):
    """All leaves 0, .1, .2, ...: heads start at zero, and would hide what goes into them."""
    return jax.tree.map(lambda p: 0.1 * jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), tree)


def test_the_first_loss_is_that_of_a_guess(views):
    objective = create()
    params, extra = objective.init(jax.random.key(0))
    loss, (metrics, _) = jax.jit(objective.loss)(
        params, extra, views, jax.random.key(1), jnp.int32(0)
    )
    np.testing.assert_allclose(loss, np.log(C), rtol=1e-6)  # the head starts at zero
    want = np.mean(np.argmax(views["label"], 1) == 0)
    np.testing.assert_allclose(metrics["top1"], want, rtol=1e-6)


def test_head_bias_and_hidden_layer_reach_the_head(views):
    objective = create(head_bias=-2.0, head_hidden=11)
    params, extra = objective.init(jax.random.key(0))
    np.testing.assert_array_equal(objective.classify(params, extra, jnp.ones((B, D))), -2)
    assert any(11 in leaf.shape for leaf in jax.tree.leaves(params["head"]))


def test_smoothing_changes_the_loss_but_not_the_accuracy(views):
    params, extra = create().init(jax.random.key(0))
    params = uneven(params)
    plain, (metrics, _) = create().loss(params, extra, views, None, 0)
    views = views | {"label": 0.8 * views["label"] + 0.2 / C}
    want, _ = create().loss(params, extra, views, None, 0)
    views = views | {"label": (views["label"] - 0.2 / C) / 0.8}
    got, (smoothed, _) = create(label_smoothing=0.2).loss(params, extra, views, None, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert abs(got - plain) > 1e-3
    np.testing.assert_array_equal(smoothed["top1"], metrics["top1"])


def test_gradients_reach_the_encoder_and_the_head(views):
    objective = create(loss="sigmoid")
    params, extra = objective.init(jax.random.key(0))
    params = uneven(params)
    grads = jax.grad(objective.loss, has_aux=True)(params, extra, views, jax.random.key(1), 0)[0]
    for leaf in jax.tree.leaves(grads):
        assert np.abs(leaf).max() > 1e-6


def test_the_key_reaches_the_encoder_in_training(views):
    objective = create()
    params, extra = objective.init(jax.random.key(0))
    params = uneven(params)
    one, two = (objective.loss(params, extra, views, jax.random.key(s), 0)[0] for s in (1, 2))
    assert one != two


def test_statistics_of_a_step_pass_through_extra_and_are_used_afterwards(views):
    objective = create(ema_decay=0.9)
    params, extra = objective.init(jax.random.key(0))
    _, (_, new) = objective.loss(params, extra, views, None, 0)
    want = (1 - RUNNING) * np.asarray(views["image"]).mean((0, 1, 2))
    np.testing.assert_allclose(new["stats"]["mean"], want, rtol=1e-5)
    assert new["ema"] is extra["ema"]
    new = objective.after(params, new, 0)
    # The average starts from zeros and takes 1 - 1/10 of the new statistics at step 0.
    averaged = objective.encoder_variables(params, new)["stats"]["mean"]
    np.testing.assert_allclose(averaged, 0.9 * want, rtol=1e-5)
    plain = create().encoder_variables(params, {"stats": new["stats"]})["stats"]["mean"]
    np.testing.assert_allclose(plain, want, rtol=1e-5)


def test_the_average_is_the_one_computed_by_hand():
    objective = create(ema_decay=0.2)
    start, extra = objective.init(jax.random.key(0))
    ema, after = 0.0, jax.jit(objective.after)
    for step, value in enumerate([1.0, 4.0, 9.0, 16.0]):
        decay = min(0.2, (1 + step) / (10 + step))  # 0.1, 0.1818, then 0.2
        ema = decay * ema + (1 - decay) * value
        extra = after(shifted(start, value), extra, jnp.int32(step))
    for leaf, first in zip(jax.tree.leaves(extra["ema"]), jax.tree.leaves(start), strict=True):
        np.testing.assert_allclose(leaf, first + ema, rtol=1e-5)


def test_the_average_is_float32_and_a_copy():
    params, extra = create(ema_decay=0.99).init(jax.random.key(0))
    jax.jit(lambda both: shifted(both, 1), donate_argnums=0)((params, extra))  # one buffer each
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), create().init(jax.random.key(0))[0])
    whole = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    extra = {"stats": {}, "ema": whole, "ema_stats": {}}
    extra = create(ema_decay=0.99).after(half, extra, jnp.int32(3))
    assert {leaf.dtype for leaf in jax.tree.leaves(extra["ema"])} == {jnp.dtype("float32")}


def test_what_is_evaluated_is_the_average_where_there_is_one(views):
    params, plain = create().init(jax.random.key(0))
    other = shifted(params, 2.0)
    extra = plain | {"ema": other, "ema_stats": plain["stats"]}
    assert create(ema_decay=0.9).encoder_variables(params, extra)["params"] is other["encoder"]
    assert create().encoder_variables(params, plain)["params"] is params["encoder"]

    pooled = jnp.ones((B, D))
    got = create(ema_decay=0.9).classify(params, extra, pooled)
    np.testing.assert_array_equal(got, create().classify(other, plain, pooled))
    assert np.abs(got - create().classify(params, plain, pooled)).max() > 0.1


def test_init_is_a_pure_function_of_the_key_and_needs_no_device():
    objective = create(ema_decay=0.9)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    real = jax.jit(objective.init)(jax.random.key(0))
    jax.tree.map(lambda s, r: np.testing.assert_equal(s.shape, r.shape), shapes, real)
    again = objective.init(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), real, again)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("loss", {"loss": "softmx"}),
        ("label_smoothing", {"label_smoothing": 1.0}),
        ("label_smoothing", {"loss": "positive", "label_smoothing": 0.1}),
        ("head_hidden", {"head_hidden": -1}),
        ("ema_decay", {"ema_decay": 1.0}),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, settings):
    with pytest.raises(ValueError, match=rf"^objective\.{key}=[^\n]*(expected|valid)[^\n]*$"):
        create(**settings)


def test_one_class_and_unknown_objectives_are_refused():
    with pytest.raises(ValueError, match=r"^objective\.classes=1[^\n]*$"):
        objectives.create("supervised", encoder=encoder(), image_size=S, classes=1)
    with pytest.raises(ValueError, match=r"^objective\.name='supervise'[^\n]*supervised"):
        objectives.create("supervise", encoder=encoder(), image_size=S, classes=C)
    with pytest.raises(TypeError, match="label_smothing"):
        create(label_smothing=0.1)
