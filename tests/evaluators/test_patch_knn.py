"""Patch-kNN segmentation against scikit-learn's neighbours and SciPy's mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import eight_devices, eight_in_a_row, looked_at
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from vitjax.evaluators import patch_knn
from vitjax.evaluators.linear import split
from vitjax.evaluators.maps import label_patches
from vitjax.evaluators.overlap import confusion, miou, pixel_accuracy

H, W, SIZE, WIDTH = 3, 2, 12, 5  # patches of 4 x 6 pixels


def draw(seed, count, spread, unknown=0.0):
    """Masks of 3 classes, the left half of each patch of one and the right of another, and patches
    that say which, more or less clearly."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 3, (2, count, H, W))
    pixels = np.stack([left, right], -1)[:, :, None, :, :, None]
    mask = np.broadcast_to(pixels, (count, H, 4, W, 2, 3)).reshape(count, SIZE, SIZE).copy()
    mask[rng.random(mask.shape) < unknown] = 255
    clear = np.concatenate([np.eye(3)[left], np.eye(3)[right][..., 1:]], -1)
    return looked_at(10 * clear + spread * rng.normal(size=clear.shape), mask=mask)


def oracle(train, validation, k, metric):
    """Brute force in float64: label patches [n, h, w, pixels], known votes only."""
    scaler = StandardScaler().fit(train.patches.reshape(-1, WIDTH).astype(float))
    labels = label_patches(train.mask, H, W).reshape(-1, 24)
    keep = stats.mode(labels, axis=1).mode != 255
    judge = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute")
    judge.fit(scaler.transform(train.patches.reshape(-1, WIDTH).astype(float))[keep])
    queries = scaler.transform(validation.patches.reshape(-1, WIDTH).astype(float))
    around = labels[keep][judge.kneighbors(queries, return_distance=False)].astype(float)
    around[around == 255] = np.nan
    winner = stats.mode(around, axis=1, nan_policy="omit").mode
    winner = np.nan_to_num(np.asarray(winner), nan=255).astype(np.uint8)
    return winner.reshape(*validation.patches.shape[:3], 24)


def rows(sample, at):
    return sample._replace(patches=sample.patches[at], mask=sample.mask[at])


@pytest.mark.filterwarnings("ignore:After omitting NaNs")  # where no neighbour knows
@pytest.mark.parametrize("cosine", [True, False])
def test_prediction_is_the_definition(cosine):
    train, validation = draw(0, 13, 6.0, unknown=0.4).sample, draw(1, 7, 6.0).sample
    labels = label_patches(train.mask, H, W)
    got = patch_knn.predict(train.patches, labels, validation.patches, ks=[1, 4, 9], cosine=cosine)
    assert list(got) == [1, 4, 9]
    for k, predicted in got.items():
        want = oracle(train, validation, k, "cosine" if cosine else "euclidean")
        np.testing.assert_array_equal(predicted, want)
    assert (got[1] == 255).any() and not (got[9] == 255).all()


def test_the_run_chooses_on_held_out_images_and_reports_on_validation():
    train, validation = draw(2, 21, 5.0), draw(3, 6, 5.0, unknown=0.1)
    got = patch_knn.run(train, validation, k=(7, 1, 3), holdout=0.2, seed=5)
    held, rest = split(21, 0.2, 5)
    bank, asked = rows(train.sample, rest), rows(train.sample, held)
    scores = {
        (k, metric): miou(
            confusion(label_patches(asked.mask, H, W), oracle(bank, asked, k, metric), 3)
        )
        for k in (1, 3, 7)
        for metric in ("cosine", "euclidean")
    }
    k, metric = max(scores, key=scores.get)
    assert sorted(scores.values())[-1] > sorted(scores.values())[-2]  # one is best
    counts = confusion(
        label_patches(validation.sample.mask, H, W),
        oracle(train.sample, validation.sample, k, metric),
        3,
    )
    want = {"miou": miou(counts), "pixel_accuracy": pixel_accuracy(counts)}
    assert got == pytest.approx(want | {"k": k, "cosine": float(metric == "cosine")})
    assert 0.3 < got["miou"] < 1


def test_clear_features_are_segmented_to_the_pixel():
    got = patch_knn.run(draw(0, 30, 0.1), draw(1, 7, 0.1))
    assert got["miou"] == got["pixel_accuracy"] == 1.0
    assert got["k"] == 1.0 and got["cosine"] == 1.0  # the first of equals


def test_eight_devices_agree_with_one_to_the_last_pixel():
    train, validation = draw(0, 13, 6.0, unknown=0.3), draw(1, 7, 6.0)
    mesh = eight_devices()
    alone = patch_knn.run(train, validation, k=(3, 9))
    with jax.set_mesh(mesh):
        assert patch_knn.run(train, validation, k=(3, 9)) == alone


def test_more_neighbours_than_patches_is_all_of_them():
    train, validation = draw(0, 3, 1.0).sample, draw(1, 2, 1.0).sample
    labels = label_patches(train.mask, H, W)
    got = patch_knn.predict(train.patches, labels, validation.patches, ks=[5, 300], cosine=True)
    assert list(got) == [5, 18]
    everywhere = stats.mode(labels.reshape(-1, 24), axis=0).mode
    np.testing.assert_array_equal(got[18], np.broadcast_to(everywhere, got[18].shape))


def test_rows_that_fill_up_a_device_are_nobody_s_neighbours():
    train, validation = draw(0, 3, 1.0).sample, draw(1, 2, 1.0).sample
    labels = label_patches(train.mask, H, W)
    labels[2, 2, 1] = 9  # of the last patch: what stands beside the rows that fill up is its copy
    mesh = eight_in_a_row()
    settings = {"ks": [5, 18], "cosine": False}  # 18 patches on 8 devices
    alone = patch_knn.predict(train.patches, labels, validation.patches, **settings)
    with jax.set_mesh(mesh):
        got = patch_knn.predict(train.patches, labels, validation.patches, **settings)
    jax.tree.map(np.testing.assert_array_equal, got, alone)


def test_votes_are_equal_the_lowest_class_wins_and_unknown_has_none():
    votes = [[4, 2, 4, 2], [9, 9, 9, 1], [255, 255, 255, 6], [255, 255, 255, 255], [3, 0, 1, 2]]
    labels = jnp.asarray(np.array(votes, np.uint8).T[None])  # [1, k, pixels]
    np.testing.assert_array_equal(patch_knn.mode(labels), [[2, 9, 6, 255, 0]])


def test_labels_that_the_grid_does_not_divide_count_as_resized_by_nearest_neighbour():
    large, small = [], []
    for each in (draw(0, 13, 3.0).sample, draw(1, 7, 3.0).sample):
        mask = np.pad(each.mask, ((0, 0), (0, 1), (0, 1)), mode="edge")  # 13 pixels, 3 x 2 patches
        large.append(looked_at(each.patches, mask=mask))
        small.append(
            looked_at(
                each.patches, mask=jax.image.resize(mask, (len(mask), 12, 12), method="nearest")
            )
        )
    assert patch_knn.run(*large, k=(3,)) == patch_knn.run(*small, k=(3,))


@pytest.mark.parametrize(("key", "value"), [("k", ()), ("k", (0,)), ("holdout", 1.0), ("seed", -1)])
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.patch_knn\.{key}=[^\n]*expected[^\n]*$"):
        patch_knn.run(draw(0, 3, 1.0), draw(1, 2, 1.0), **{key: value})


def test_what_cannot_be_measured_is_one_line():
    train, validation = draw(0, 3, 1.0), draw(1, 2, 1.0)
    blind = validation._replace(sample=validation.sample._replace(mask=None))
    unknown = looked_at(train.sample.patches, mask=np.full_like(train.sample.mask, 255))
    for both, says in (
        ((train, blind), "the data set has no masks"),
        ((draw(0, 1, 1.0), validation), "1 train image"),
        ((unknown, validation), "the train sample.s masks know the classes"),
    ):
        with pytest.raises(ValueError, match=rf"^evaluators\.patch_knn: {says}[^\n]*$"):
            patch_knn.run(*both)
