"""The attentive probe: what only attention can read, and the protocol of its grid."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import eight_devices, looked_at
from sklearn.linear_model import LogisticRegression

from vitjax.evaluators import attentive
from vitjax.evaluators.linear import minibatches

QUICK = {"lrs": (1e-4, 1e-2), "weight_decays": (1e-3, 0.05, 0.0), "steps": 60, "batch_size": 64}


def planted(images, seed=0, width=24, classes=4):
    """One patch of 5 x 3 carries the class, and says so; the others drown it in any mean.

    Dimension 0 marks the patch; dimension 1 + c is +-1: +1 for class c in the marked patch, noise
    of the size of many such in the others.
    """
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, images)
    patches = 6 * rng.normal(size=(images, 15, width))
    patches[:, :, 0] = 0.0
    at = rng.integers(0, 15, images)
    marked = np.zeros((images, width))
    marked[:, 0] = 6.0
    marked[np.arange(images), 1 + label] = 6.0
    patches[np.arange(images), at] = marked
    return looked_at(patches.reshape(images, 5, 3, width), label)


def test_only_attention_finds_the_patch_that_knows_the_class():
    train, validation = planted(600), planted(300, seed=1)
    mean = LogisticRegression(max_iter=1000).fit(train.pooled, train.label)
    assert mean.score(validation.pooled, validation.label) < 0.5
    got = attentive.run(
        train, validation, lrs=(1e-9, 1e-2), weight_decays=(1e-3,), steps=400, batch_size=128
    )
    assert got["top1"] > 0.97 and got["holdout_top1"] > 0.97 and got["lr"] == 1e-2


def grid_of(train, grid, steps=30):
    sample = train.sample
    patches = attentive.tokens(sample.patches)
    return attentive.fit_and_score(
        np.asarray(grid, np.float32),
        patches[:101],
        sample.label[:101],
        minibatches(101, steps, 32, seed=3),
        patches[101:],
        sample.label[101:],
        seed=np.int32(3),
        classes=4,
        mesh=attentive.evaluation_mesh(),
    )


def test_a_head_in_the_grid_is_what_it_would_be_alone():
    train, grid = planted(131), [(1e-3, 0.0), (1e-3, 0.5), (1e-2, 1e-3)]
    together, _, _ = grid_of(train, grid)
    for i, each in enumerate(grid):
        alone, _, _ = grid_of(train, [each])
        for name, leaf in together.items():
            np.testing.assert_allclose(leaf[i], alone[name][0], rtol=1e-3, atol=1e-5)
    assert not np.allclose(together["kernel"][0], together["kernel"][1], atol=1e-4)


def attend(head, patches):
    """The head as it is told: keys and values of every patch, then jax's own attention."""
    B, T, D = patches.shape
    heads = (-1, int(np.gcd(D, 64)))
    keys = (patches @ head["key"]).reshape(B, T, *heads)
    values = (patches @ head["value"] + head["value_bias"]).reshape(B, T, *heads)
    query = jnp.broadcast_to(head["query"].reshape(heads), (B, 1, *keys.shape[2:]))
    pooled = jax.nn.dot_product_attention(query, keys, values).reshape(B, D)
    return pooled @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("width", [24, 128, 7])  # heads 8, 64 and 1 wide
def test_the_head_is_attention_with_a_learned_query(width):
    rng = np.random.default_rng(0)
    head = attentive.initial(jax.random.key(0), width, classes=5)
    head = {name: jnp.asarray(rng.normal(size=w.shape), jnp.float32) for name, w in head.items()}
    patches = jnp.asarray(0.3 * rng.normal(size=(3, 11, width)), jnp.float32)
    with jax.numpy_rank_promotion("allow"):
        want = jax.jit(attend)(head, patches)
    got = jax.jit(attentive.logits_of)(head, patches)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_training_is_adamw_with_warm_up_and_cosine_as_optax_has_it():
    train, steps, lr, weight_decay = planted(131), 30, 1e-2, 0.3
    got, _, _ = grid_of(train, [(lr, weight_decay)], steps)
    head = attentive.initial(jax.random.key(3), 24, classes=4)
    assert {name for name, w in head.items() if not w.any()} == {"value_bias", "bias"}
    assert np.std(head["key"]) == pytest.approx(0.02, rel=0.1)
    # Optax counts from 0 and rises from its first value: 1/3, 2/3, 3/3 = the top of the cosine.
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(lr / 3, lr * 4 / 3, 3),
            optax.cosine_decay_schedule(lr, steps - 3),
        ],
        [3],
    )
    decays = {name: not name.endswith("bias") for name in head}
    tx = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=weight_decay, mask=decays)
    patches = jnp.asarray(attentive.tokens(train.sample.patches))
    label = jnp.asarray(train.label)

    @jax.jit
    def step(head, state, at):
        def loss(head):
            logits = attend(head, patches[at])
            return optax.softmax_cross_entropy_with_integer_labels(logits, label[at]).mean()

        updates, state = tx.update(jax.grad(loss)(head), state, head)
        return optax.apply_updates(head, updates), state

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = tx.init(head)
        for at in minibatches(101, steps, 32, seed=3):
            head, state = step(head, state, at)
    for name, w in head.items():
        np.testing.assert_allclose(got[name][0], w, rtol=1e-2, atol=1e-4)


def test_eight_devices_give_the_numbers_of_one():
    train, validation = planted(203), planted(97, seed=1)
    alone = attentive.run(train, validation, **QUICK)
    mesh = eight_devices()
    with jax.set_mesh(mesh):  # six heads on eight devices
        assert attentive.run(train, validation, **QUICK) == pytest.approx(alone, abs=1e-6)


def test_the_order_of_the_patches_does_not_matter():
    train, validation = planted(203), planted(97, seed=1)

    def turn(split):
        return looked_at(split.sample.patches[:, ::-1].swapaxes(1, 2), split.label)

    got = attentive.run(turn(train), turn(validation), **QUICK)
    assert got == pytest.approx(attentive.run(train, validation, **QUICK), abs=0.011)


def test_validation_has_no_say_in_the_choice_and_an_unknown_label_is_wrong():
    train, validation = planted(203), planted(97, seed=1)
    got = attentive.run(train, validation, **QUICK)
    strange = looked_at(validation.sample.patches, np.full(97, 9))
    other = attentive.run(train, strange, **QUICK)
    assert other == got | {"top1": 0.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lrs", ()),
        ("lrs", (0.1, 0.0)),
        ("weight_decays", ()),
        ("weight_decays", (-0.1,)),
        ("steps", 0),
        ("batch_size", 0),
        ("holdout", 0.0),
        ("seed", -1),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.attentive\.{key}=[^\n]*expected[^\n]*$"):
        attentive.run(planted(20), planted(20), **{key: value})


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match=r"^evaluators\.attentive: 1 image [^\n]*$"):
        attentive.run(planted(1), planted(20))
