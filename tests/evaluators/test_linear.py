"""The linear probe: one program for the whole grid, and an honest choice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planted import eight_devices, frozen
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vitjax.evaluators import linear

PLAIN = {"layers": (1,), "mean_patch": (False,)}
MEDIUM = {"steps": 150, "batch_size": 64}
QUICK = MEDIUM | PLAIN


@pytest.fixture(scope="module")
def digits():
    pixels, label = load_digits(return_X_y=True)
    mixed = np.random.default_rng(0).permutation(len(label))  # its last third has other writers
    pixels, label = pixels[mixed], label[mixed]
    return frozen(pixels[:1087], label[:1087]), frozen(pixels[1087:], label[1087:])


def clusters(examples, spread, seed=0, classes=5, width=16):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, examples)
    return frozen(10 * np.eye(width)[label] + spread * rng.normal(size=(examples, width)), label)


def test_separable_features_reach_every_example():
    got = linear.run(clusters(203, 0.5), clusters(57, 0.5, seed=1), **QUICK)
    assert got["top1"] == got["holdout_top1"] == 1.0
    assert got["lr"] in linear.LRS


def test_digits_come_within_a_point_of_logistic_regression(digits):
    train, validation = digits
    scaler = StandardScaler().fit(train.pooled)
    solver = LogisticRegression(max_iter=2000).fit(scaler.transform(train.pooled), train.label)
    want = solver.score(scaler.transform(validation.pooled), validation.label)
    got = linear.run(train, validation, steps=1000, batch_size=256, **PLAIN)
    assert got["top1"] == pytest.approx(want, abs=0.015)
    assert want > 0.95


def program(train, lrs, weight_decay=0.0, steps=40, batch_size=32):
    batches = linear.minibatches(len(train.label), steps, batch_size, seed=3)
    return linear.fit(
        train.pooled,
        train.label,
        batches,
        np.asarray(lrs, np.float32),
        masks=np.ones((len(lrs), 16), bool),
        seed=3,
        classes=5,
        widths=(16,),
        weight_decay=weight_decay,
    )


def test_the_grid_equals_each_rate_alone():
    train, lrs = clusters(101, 3.0), (1e-4, 1e-3, 1e-2)
    together = program(train, lrs)
    assert together["kernel"].shape == (3, 16, 5)
    for i, lr in enumerate(lrs):
        alone = program(train, (lr,))
        for name in ("kernel", "bias"):
            np.testing.assert_allclose(together[name][i], alone[name][0], rtol=1e-4, atol=1e-6)


def deep(examples, seed):
    """Only the second of three blocks, and more weakly the mean patch, know the class."""
    known, rng = clusters(examples, 0.5, seed), np.random.default_rng(seed + 10)
    noise = [rng.normal(size=(examples, D)).astype(np.float32) for D in (7, 7, 11)]
    patch_mean = known.pooled[:, :3] + noise[0][:, :3]
    layers = (noise[0], known.pooled, noise[2])
    return known._replace(pooled=noise[0], layers=layers, patch_mean=patch_mean)


def test_an_encoder_of_one_block_keeps_its_mean_patch_apart():
    train, validation = deep(203, 0), deep(57, 1)
    got = linear.run(train._replace(layers=None), validation._replace(layers=None), **MEDIUM)
    assert got["mean_patch"] == 1.0 and got["layers"] == 1.0


def test_the_grid_finds_the_blocks_that_know():
    train, validation = deep(203, 0), deep(57, 1)
    got = linear.run(train, validation, **MEDIUM)
    assert got["top1"] == 1.0 and got["layers"] == 4.0
    last = linear.run(train, validation, layers=(1,), **MEDIUM)
    assert last["mean_patch"] == 1.0 and 0.4 < last["top1"] < 1.0
    alone = linear.run(train, validation, **QUICK)
    assert alone["top1"] < 0.4


@pytest.mark.parametrize(("layers", "mean_patch"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_head_of_the_grid_is_what_it_would_be_alone(layers, mean_patch):
    train = deep(103, 0)
    parts = linear.inputs(train, 2, True)
    widths = tuple(part.shape[1] for part in parts)
    assert widths == (7, 16, 3)

    def heads(parts, masks):
        rows = np.concatenate(parts, axis=1)
        widths = tuple(part.shape[1] for part in parts)
        batches = linear.minibatches(103, 40, 32, seed=0)
        lrs = np.full(len(masks), 1e-2, np.float32)
        fixed = {"seed": 0, "classes": 5, "weight_decay": 0.0, "widths": widths}
        return linear.fit(rows, train.label, batches, lrs, masks=np.stack(masks), **fixed)

    grid = [linear.mask(widths, 2, n, mean) for n in (1, 2) for mean in (False, True)]
    reads = linear.mask(widths, 2, layers, mean_patch)
    at = next(i for i, each in enumerate(grid) if (each == reads).all())
    together = heads(parts, grid)["kernel"][at]
    assert not np.asarray(together)[~reads].any() and np.asarray(together)[reads].any()
    if not mean_patch:  # the parts it reads come first: their draws are the same
        alone = heads(parts[:layers], [reads[: sum(widths[:layers])]])["kernel"][0]
        np.testing.assert_allclose(np.asarray(together)[reads], alone, rtol=1e-4, atol=1e-6)


def test_features_that_come_train_the_heads_that_cached_ones_would():
    train = deep(103, 0)
    parts = linear.inputs(train, 2, True)
    batches = linear.minibatches(103, 20, 32, seed=0)
    lrs = np.asarray([1e-3, 1e-2], np.float32)
    grid = [(lr, n, True) for lr, n in zip(lrs, (1, 2), strict=True)]
    settings = {"masks": linear.masks_of(grid, parts, True), "seed": 0, "classes": 5}
    settings |= {"widths": (7, 16, 3), "weight_decay": 0.1}
    cached = linear.fit(np.concatenate(parts, axis=1), train.label, batches, lrs, **settings)
    stream = (([part[at] for part in parts], train.label[at]) for at in batches)
    coming = linear.fit_stream(stream, lrs, 20, **settings)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), cached, coming
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_training_is_sgd_with_momentum_and_cosine_as_optax_has_it(weight_decay):
    train, steps, lr = clusters(101, 3.0), 40, 1e-2
    got = program(train, (lr,), weight_decay, steps)
    head = {
        "kernel": 0.01 * jax.random.normal(jax.random.fold_in(jax.random.key(3), 0), (16, 5)),
        "bias": jnp.zeros(5),
    }
    tx = optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False}),
        optax.sgd(optax.cosine_decay_schedule(lr, steps), momentum=0.9),
    )

    def loss(head, at):
        logits = jnp.asarray(train.pooled)[at] @ head["kernel"] + head["bias"][None, :]
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.asarray(train.label)[at]
        ).mean()

    opt, grad = tx.init(head), jax.jit(jax.grad(loss))
    for at in linear.minibatches(101, steps, 32, seed=3):
        with jax.numpy_dtype_promotion("standard"):  # optax's own schedule needs it
            updates, opt = tx.update(grad(head, at), opt, head)
        head = optax.apply_updates(head, updates)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(got[name][0], head[name], rtol=1e-3, atol=1e-5)


def test_validation_has_no_say_in_the_choice():
    train, validation = clusters(203, 6.0), clusters(97, 6.0, seed=1)
    got = linear.run(train, validation, **QUICK)
    mixed = np.random.default_rng(2).permutation(validation.label)
    other = linear.run(train, validation._replace(label=mixed), **QUICK)
    assert (other["lr"], other["holdout_top1"]) == (got["lr"], got["holdout_top1"])
    assert other["top1"] < got["top1"] - 0.1


def test_equally_accurate_heads_are_told_apart_by_their_cross_entropy():
    train, validation = clusters(203, 0.5), clusters(57, 0.5, seed=1)
    got = linear.run(train, validation, lrs=(0.01, 0.1, 1e30), **QUICK)
    assert (got["top1"], got["lr"], got["holdout_top1"]) == (1.0, 0.1, 1.0)


def test_the_head_that_is_best_on_the_held_out_examples_is_chosen():
    train = clusters(203, 0.5)
    held, rest = linear.split(203, 0.3, seed=0)
    # The rest is labelled wrongly: whoever learns it fails on the held-out examples.
    label = train.label.copy()
    label[rest] = (label[rest] + 1) % 5
    got = linear.run(
        train._replace(label=label),
        clusters(57, 0.5, seed=1),
        lrs=(1e-9, 0.1),
        holdout=0.3,
        **QUICK,
    )
    assert got["lr"] == 1e-9 and 0 < got["holdout_top1"] < 1
    assert len(held) == 61


def test_eight_devices_give_the_numbers_of_one():
    train, validation = clusters(203, 6.0), clusters(97, 6.0, seed=1)
    mesh = eight_devices()
    odd = (
        train._replace(pooled=train.pooled[:, :13]),
        validation._replace(pooled=validation.pooled[:, :13]),
    )
    for both in ((train, validation), odd):
        alone = linear.run(*both, **QUICK)
        with jax.set_mesh(mesh):
            assert linear.run(*both, **QUICK) == pytest.approx(alone, abs=1e-6)


def test_scale_and_offset_of_the_features_do_not_matter():
    train, validation = clusters(203, 6.0), clusters(97, 6.0, seed=1)

    def move(split):
        return split._replace(pooled=split.pooled * np.float32(64) + np.float32(300))

    got = linear.run(move(train), move(validation), **QUICK)
    assert got == pytest.approx(linear.run(train, validation, **QUICK), abs=0.011)


def test_a_constant_dimension_is_harmless():
    def dull(split):
        column = np.full((len(split.label), 1), 1e3, np.float32)
        return split._replace(pooled=np.concatenate([split.pooled, column], axis=1))

    got = linear.run(dull(clusters(203, 0.5)), dull(clusters(57, 0.5, seed=1)), **QUICK)
    assert got["top1"] == 1.0


def test_minibatches_pass_over_every_example_and_follow_the_seed_alone():
    batches = linear.minibatches(examples=10, steps=7, batch_size=4, seed=0)
    assert batches.shape == (7, 4)
    order = batches.reshape(-1)
    for epoch in range(2):
        assert sorted(order[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert (order[:10] != order[10:20]).any()
    longer = linear.minibatches(examples=10, steps=9, batch_size=4, seed=0)
    np.testing.assert_array_equal(longer[:7], batches)
    assert (linear.minibatches(10, 7, 4, seed=1) != batches).any()


def test_the_split_holds_out_its_share_and_loses_nothing():
    held, rest = linear.split(103, 0.1, seed=0)
    assert len(held) == 10
    assert sorted([*held, *rest]) == list(range(103))
    assert len(linear.split(2, 0.01, seed=0)[0]) == len(linear.split(2, 0.99, seed=0)[1]) == 1


def test_a_batch_larger_than_the_train_split_is_clamped_and_its_rate_with_it():
    train, validation = clusters(31, 6.0), clusters(97, 6.0, seed=1)
    _, rest = linear.split(31, 0.1, seed=0)
    clamped = linear.run(train, validation, steps=20, batch_size=1024, **PLAIN)
    assert clamped == linear.run(train, validation, steps=20, batch_size=len(rest), **PLAIN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lrs", ()),
        ("lrs", (0.1, -1.0)),
        ("steps", 0),
        ("batch_size", 0),
        ("holdout", 1.0),
        ("weight_decay", -0.1),
        ("layers", (0, 1)),
        ("mean_patch", True),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.linear\.{key}=[^\n]*expected[^\n]*$"):
        linear.run(clusters(20, 1.0), clusters(20, 1.0), **{key: value})


def test_one_train_example_is_too_few():
    with pytest.raises(ValueError, match=r"^evaluators\.linear: 1 train example [^\n]*$"):
        linear.run(clusters(1, 1.0), clusters(20, 1.0))
