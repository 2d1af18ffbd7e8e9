"""Linear depth: the formulas in NumPy float64, and a planted depth that is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import eight_devices, looked_at
from sklearn.metrics import mean_absolute_percentage_error, root_mean_squared_error

from vitjax.evaluators import depth
from vitjax.evaluators.dense_head import Head, Scale
from vitjax.evaluators.maps import upsampling

H, W, SIZE, WIDTH = 3, 2, 12, 5
QUICK = {"steps": 100, "batch_size": 8, "lrs": (1e-5, 3e-2)}
FEW = QUICK | {"steps": 5}


def draw(seed, count):
    """Depth of 1 to 5 metres, linear in one feature of the patch and one of the image; some pixels
    unknown."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(-1, 1, (count, H, W, WIDTH))
    pooled = rng.uniform(-1, 1, (count, 4))
    coarse = 3 + patches[..., 2] + pooled[:, None, None, 1]
    metres = np.einsum("yh,nhw,xw->nyx", upsampling(SIZE, H), coarse, upsampling(SIZE, W))
    metres[rng.random(metres.shape) < 0.2] = 0
    return looked_at(patches, pooled=pooled, depth=metres)


def test_a_planted_linear_depth_is_learnt():
    train, validation = draw(0, 60), draw(1, 11)
    got = depth.run(train, validation, **QUICK)
    truth = validation.sample.depth[validation.sample.depth > 0]
    assert got["lr"] == 3e-2
    assert got["rmse"] < 0.3 * truth.std() and got["abs_rel"] < 0.08 and got["a1"] > 0.95
    assert got["a1"] <= got["a2"] <= got["a3"] <= 1
    assert set(got) == {"rmse", "abs_rel", "a1", "a2", "a3", "log10", "lr"}


def test_without_the_pooled_features_half_of_the_planted_depth_is_out_of_reach():
    def blinded(split):
        return looked_at(
            split.sample.patches, pooled=0 * split.sample.pooled, depth=split.sample.depth
        )

    both = draw(0, 60), draw(1, 11)
    with_pooled = depth.run(*both, **QUICK)
    without = depth.run(*(blinded(each) for each in both), **QUICK)
    assert without["rmse"] > 2 * with_pooled["rmse"]


def test_errors_are_those_of_numpy_and_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, (3, 5, 7)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = 0
    guess = rng.uniform(0.5, 9, (3, 5, 7)).astype(np.float32)
    got = depth.measure(guess, truth)
    want = {key: [] for key in got}
    for p, t in zip(guess.astype(float), truth.astype(float), strict=True):
        p, t = p[t > 0], t[t > 0]
        want["rmse"].append(root_mean_squared_error(t, p))
        want["abs_rel"].append(mean_absolute_percentage_error(t, p))
        want["log10"].append(np.abs(np.log(p / t)).mean() / np.log(10))
        for i in (1, 2, 3):
            want[f"a{i}"].append(np.mean((p < t * 1.25**i) & (t < p * 1.25**i)))
    assert got == pytest.approx({key: np.mean(values) for key, values in want.items()})


def test_errors_by_hand():
    truth = np.array([[[2.0, 0.0], [4.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]])
    guess = np.array([[[3.0, 9.0], [4.0, 1.0]], [[1.0, 1.0], [1.0, 9.0]]])
    got = depth.measure(guess, truth)  # the first image: off by 1 in one of 3, the second exact
    want = {"rmse": np.sqrt(1 / 3) / 2, "abs_rel": 0.5 / 6, "log10": np.log10(1.5) / 6}
    assert got == pytest.approx(want | {"a1": 5 / 6, "a2": 1.0, "a3": 1.0})


def test_the_loss_is_its_formula_over_known_pixels():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, (2, 5, 7)).astype(np.float32)
    truth[0, :3] = 0
    guess = rng.uniform(0.5, 9, (2, 5, 7)).astype(np.float32)
    g = np.log(guess.astype(float) + 1e-3) - np.log(truth.astype(float) + 1e-3)
    g = g[truth > 0]
    for variance in (1.0, 0.0):
        got = depth.scale_invariant(jnp.asarray(guess), jnp.asarray(truth), jnp.float32(variance))
        want = np.sqrt(variance * g.var() + 0.15 * g.mean() ** 2)
        assert float(got) == pytest.approx(want, rel=1e-5)
    # A scale costs sqrt(0.15) of its logarithm; in full without the variance to hide behind.
    got = depth.scale_invariant(jnp.asarray(3 * truth), jnp.asarray(truth), jnp.float32(1))
    assert float(got) == pytest.approx(np.sqrt(0.15) * np.log(3), rel=1e-2)


def test_nothing_known_and_nothing_wrong_have_a_finite_slope():
    slope = jax.jit(jax.grad(depth.scale_invariant))
    ones = jnp.ones((2, 3, 3))
    for truth in (0 * ones, ones):
        np.testing.assert_array_equal(slope(ones, truth, jnp.float32(1)), 0 * ones)


def test_depth_is_the_weighted_mean_of_the_bins_of_the_upsampled_scores():
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(WIDTH, 256)).astype(np.float32), np.zeros(256, np.float32))
    patches = rng.normal(size=(2, H, W, WIDTH)).astype(np.float32)
    bins = np.linspace(1, 5, 256).astype(np.float32)
    shared = {
        "finer": (upsampling(4 * H, H), upsampling(4 * W, W)),
        "pixels": (upsampling(SIZE, 4 * H), upsampling(SIZE, 4 * W)),
        "scale": Scale(np.full(WIDTH, 2.0, np.float32), np.full(WIDTH, 3.0, np.float32)),
        "bins": bins,
    }
    # The features upsampled, as the paper has it, and then the convolution: it is the same.
    finer = jax.image.resize(patches, (2, 4 * H, 4 * W, WIDTH), "linear")
    scores = np.maximum((np.asarray(finer, float) - 2) / 3 @ head.kernel, 0) + 0.1
    coarse = (scores / scores.sum(-1, keepdims=True) @ bins).astype(np.float32)
    want = jax.image.resize(coarse, (2, SIZE, SIZE), "linear", antialias=False)
    np.testing.assert_allclose(jax.jit(depth.depth_of)(shared, head, patches), want, rtol=1e-4)


def test_the_range_may_be_given_and_is_that_of_train_otherwise():
    train, validation = draw(0, 21), draw(1, 9)
    got = depth.run(train, validation, min_depth=20.0, max_depth=30.0, **FEW)
    assert got["rmse"] > 14 and got["a3"] == 0.0
    known = train.sample.depth[train.sample.depth > 0]
    whole = depth.run(
        train, validation, min_depth=float(known.min()), max_depth=float(known.max()), **FEW
    )
    assert whole == depth.run(train, validation, **FEW)


def test_images_of_no_known_depth_are_left_out():
    train, validation = draw(0, 21), draw(1, 9)
    want = depth.run(train, validation, **FEW)

    def with_blank(split):
        s = split.sample
        metres = np.concatenate([0 * s.depth[:1], s.depth])
        return looked_at(
            np.concatenate([s.patches[:1] + 9, s.patches]),
            pooled=np.concatenate([s.pooled[:1], s.pooled]),
            depth=metres,
        )

    assert depth.run(with_blank(train), with_blank(validation), **FEW) == want


def test_eight_devices_give_the_numbers_of_one():
    train, validation = draw(0, 21), draw(1, 9)
    mesh = eight_devices()
    alone = depth.run(train, validation, **FEW)
    with jax.set_mesh(mesh):
        assert depth.run(train, validation, **FEW) == pytest.approx(alone, abs=2e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_depth", 0.0),
        ("max_depth", -1.0),
        ("lrs", (0.0,)),
        ("weight_decay", -0.1),
        ("steps", 0),
        ("batch_size", 0),
        ("holdout", 1.0),
        ("seed", -1),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.depth\.{key}=[^\n]*expected[^\n]*$"):
        depth.run(draw(0, 3), draw(1, 2), **{key: value})


def test_what_cannot_be_measured_is_one_line():
    train, validation = draw(0, 3), draw(1, 2)
    blind = train._replace(sample=train.sample._replace(depth=None))
    dark = looked_at(train.sample.patches, pooled=train.sample.pooled, depth=0 * train.sample.depth)
    for first, settings, says in (
        (blind, {}, "the data set has no depth"),
        (dark, {}, "0 train and 2 validation images"),
        (train, {"min_depth": 50.0}, "min_depth=50"),
    ):
        with pytest.raises(ValueError, match=rf"^evaluators\.depth: {says}[^\n]*$"):
            depth.run(first, validation, **settings)
    with pytest.raises(ValueError, match=r"^evaluators\.depth\.max_depth=2[^\n]*more than"):
        depth.run(train, validation, min_depth=3.0, max_depth=2.0)
