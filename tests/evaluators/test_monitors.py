"""Label-free monitors: closed forms, SciPy and NumPy as oracles, and known cases of collapse."""

import jax
import numpy as np
import pytest
from planted import eight_in_a_row
from scipy.spatial.distance import cdist, pdist
from scipy.special import hyp0f1

from vitjax.evaluators import Frozen, monitors
from vitjax.evaluators.features import Sample
from vitjax.ops.statistics import cka, rankme, unbiased_cka, uniformity, unit_rows

N, D, M, S = 173, 11, 75, 12


def corners(images):
    """An "encoder": means of the four quarters of each channel, less 100; patches 2 x 2."""
    images = np.asarray(images, np.float32)
    quarters = images.reshape(len(images), 2, S // 2, 2, S // 2, 3).mean(axis=(2, 4)) - 100
    return quarters.reshape(len(images), -1), quarters


def sample_of(images, encode=corners):
    images = np.asarray(images, np.uint8)
    rows = 2 * np.arange(len(images), dtype=np.int64)
    label = np.zeros(len(images), np.int32)
    patches = np.random.default_rng(5).normal(size=(len(images), 3, 2, D)).astype(np.float32)
    return Sample(images, rows, label, patches[:, 1, 0] * 2, patches, encode)


@pytest.fixture
def validation():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(N, width)).astype(np.float32) for width in (D, D, 7, 5)]
    layers[1] += 3 * layers[0]
    images = rng.integers(0, 256, (M, S, S, 3))
    return Frozen(np.zeros(N, np.int32), layers[0], layers=tuple(layers), sample=sample_of(images))


def test_they_are_their_definitions(validation):
    got = monitors.run(None, validation)
    rows = validation.pooled.astype(float)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    singular = np.linalg.svd(rows, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    distances = cdist(unit, unit) + 9 * np.eye(N)
    patches = validation.sample.patches.reshape(M, 6, D)
    cosines = [1 - cdist(patches[i], patches[i, 2:3], "cosine") for i in range(M)]
    layers = [layer - layer.mean(0, dtype=float) for layer in validation.layers]

    def alike(x, y):
        hsic = [np.sum((a @ a.T) * (b @ b.T)) for a, b in ((x, y), (x, x), (y, y))]
        return hsic[0] / np.sqrt(hsic[1] * hsic[2])

    want = {
        "rankme": np.exp(-np.sum(p * np.log(p))),
        "examples": N,
        "uniformity": np.log(np.mean(np.exp(-2 * pdist(unit, "sqeuclidean")))),
        "nearest_neighbour": distances.min(axis=1).mean(),
        "std": np.std(unit, axis=0).mean() * np.sqrt(D),
        "cka_layer_1": alike(layers[0], layers[1]),
        "cka_unbiased_layer_1": unbiased_cka(layers[0], layers[1]),
        "cka_layer_2": alike(layers[0], layers[2]),
        "cka_unbiased_layer_2": unbiased_cka(layers[0], layers[2]),
        "cka_layer_3": alike(layers[0], layers[3]),
        "cka_unbiased_layer_3": unbiased_cka(layers[0], layers[3]),
        "alignment": got["alignment"],
        "class_patch_cosine": np.mean(cosines),
    }
    assert got == pytest.approx(want, rel=1e-6)
    assert list(got) == list(want)
    assert got["cka_layer_1"] > 0.8 > 0.3 > got["cka_layer_2"] > 0


@pytest.mark.parametrize("shape", [(4000, 16), (16, 4000)])
def test_an_isotropic_cloud_has_full_rank_and_a_line_has_rank_one(shape):
    rng = np.random.default_rng(1)
    assert rankme(rng.normal(size=shape)) == pytest.approx(16, rel=0.01)
    line = np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1]))
    assert rankme(line) == pytest.approx(1, abs=2e-3)
    assert rankme(np.zeros(shape)) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("width", [2, 3, 16])
def test_uniformity_of_the_even_sphere_is_its_closed_form(width):
    rows = unit_rows(np.random.default_rng(2).normal(size=(3000, width)))
    # The mean of exp(4 c) over the sphere is 0F1(width / 2, 4), c the cosine of two points.
    assert uniformity(rows @ rows.T) == pytest.approx(np.log(hyp0f1(width / 2, 4)) - 4, abs=0.01)


def test_collapse_is_seen(validation):
    dull = validation._replace(pooled=np.full((N, D), 0.1, np.float32))
    dull = dull._replace(layers=(dull.pooled, *validation.layers[1:]))
    got = monitors.run(None, dull)
    for name in ("uniformity", "nearest_neighbour", "std", "cka_layer_1"):
        assert got[name] == pytest.approx(0, abs=1e-7)
    assert got["rankme"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("n", [8, 60])  # below the widths, by the kernels; above, by the columns
def test_cka_does_not_see_rotations_scales_and_shifts(n):
    rng = np.random.default_rng(3)
    x, other = rng.normal(size=(n, 13)), rng.normal(size=(n, 9))
    turn, _ = np.linalg.qr(rng.normal(size=(13, 13)))
    assert cka(x, x @ turn * 7 + 100) == pytest.approx(1)
    assert cka(x @ turn - 3, other) == pytest.approx(cka(x, other))
    assert cka(x, other) == pytest.approx(cka(other, x))
    assert cka(x, other) < 0.9
    assert cka(x, x * np.geomspace(1, 30, 13)) < 0.95  # it does see unequal scales


def test_both_ways_to_compute_cka_agree():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 39)), rng.normal(size=(40, 13))
    wide = np.pad(x, ((0, 0), (0, 5)))  # the same kernel, wider than n
    assert cka(wide, y) == pytest.approx(cka(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "biased"), [(16, 0.94), (64, 0.80), (256, 0.50)])
def test_unbiased_cka_of_strangers_is_0_where_cka_is_not(n, biased):
    """256 numbers each. A copy with noise of variance v is at 1 / (1 + v), at any n."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4096, 256))
    batches = [(x[at : at + n], y[at : at + n]) for at in range(0, 1024, n)]
    assert np.mean([cka(*each) for each in batches]) == pytest.approx(biased, abs=0.01)
    assert unbiased_cka(x, y, n) == pytest.approx(0, abs=0.02)
    noisy = x + np.sqrt(0.6) * y
    assert unbiased_cka(x, noisy, n) == pytest.approx(1 / 1.6, abs=0.02)
    assert cka(x[:n], noisy[:n]) > 0.7
    assert unbiased_cka(x, 3 * x + 5, n) == pytest.approx(1)
    assert np.isnan(unbiased_cka(x, 0 * x, n))


def test_two_views_of_plain_colour_are_aligned_and_of_noise_are_not(validation):
    rng = np.random.default_rng(4)
    plain = np.broadcast_to(rng.integers(0, 256, (M, 1, 1, 3)), (M, S, S, 3))
    assert monitors.alignment(sample_of(plain), (0.08, 1.0), 0) == pytest.approx(0, abs=1e-6)
    noise = monitors.alignment(validation.sample, (0.08, 1.0), 0)
    assert 0.01 < noise < 2
    # Whole images are at most mirrored: one view in two differs from the other.
    flips = monitors.alignment(validation.sample, (1.0, 1.0), 0)
    mirrored = validation.sample.images[:, :, ::-1]
    one, other = (unit_rows(corners(x)[0]) for x in (mirrored, validation.sample.images))
    assert flips == pytest.approx(np.mean(np.sum((one - other) ** 2, axis=1)) / 2, rel=0.3)


def test_views_follow_the_seed_and_the_image_alone(validation):
    sample = validation.sample
    alone = monitors.alignment(sample, (0.08, 1.0), 0)
    mixed = np.random.default_rng(6).permutation(M)
    other = sample._replace(images=sample.images[mixed], rows=sample.rows[mixed])
    assert monitors.alignment(other, (0.08, 1.0), 0) == pytest.approx(alone, rel=1e-6)
    assert monitors.alignment(sample, (0.08, 1.0), 1) != pytest.approx(alone, rel=1e-3)
    one, two = monitors.two_views(
        sample.images[:3], np.arange(3, dtype=np.uint32), np.uint32(0), area=(0.08, 1.0)
    )
    assert one.shape == two.shape == (3, S, S, 3) and one.dtype == np.float32
    assert np.abs(one - two).mean() > 10


def test_a_mesh_changes_nothing(validation):
    alone = monitors.run(None, validation)
    with jax.set_mesh(eight_in_a_row()):
        assert monitors.run(None, validation) == pytest.approx(alone, rel=1e-6)


def test_at_most_so_many_examples_are_looked_at(validation):
    got = monitors.run(None, validation, examples=50)
    assert got["examples"] == 50
    assert got == monitors.run(None, validation, examples=50)
    other = monitors.run(None, validation, examples=50, seed=1)
    assert other["uniformity"] != got["uniformity"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("examples", 1), ("area", (0.5,)), ("area", (0.5, 0.2)), ("area", (0.0, 1.0)), ("seed", -1)],
)
def test_bad_settings_are_one_line_that_names_the_key(validation, key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.monitors\.{key}=[^\n]*expected[^\n]*$"):
        monitors.run(None, validation, **{key: value})


def test_one_example_is_too_few(validation):
    few = validation._replace(label=validation.label[:1], pooled=validation.pooled[:1])
    with pytest.raises(ValueError, match=r"^evaluators\.monitors: 1 validation example [^\n]*$"):
        monitors.run(None, few)
