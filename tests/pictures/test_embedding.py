"""The map of a split: the same on every run, and near stays near."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from threadpoolctl import threadpool_limits

from vitjax.pictures.embedding import apart, draw_embedding, draw_thumbnails, embed, largest

DIGITS = load_digits()
X, LABEL = DIGITS.data[:150].astype(np.float32), DIGITS.target[:150]


@pytest.fixture(scope="module")
def points():
    return embed(X)


def test_the_map_is_the_same_on_every_run_with_any_number_of_threads(points):
    assert points.shape == (150, 2) and points.dtype == np.float32
    with threadpool_limits(1):
        np.testing.assert_array_equal(embed(X), points)
    np.testing.assert_allclose(embed(7 * X), points, atol=2.0)  # length is not looked at
    assert np.abs(embed(X, perplexity=5.0) - points).max() > 2.0


def test_near_stays_near(points):
    assert trustworthiness(X, points, n_neighbors=5) > 0.93
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(150)
    assert (LABEL[near.argmin(1)] == LABEL).mean() > 0.9


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_small_splits_have_a_map_too(n):
    got = embed(X[:n])
    assert got.shape == (n, 2) and np.isfinite(got).all()
    if n > 1:
        assert len(np.unique(got, axis=0)) == n


def test_classes_with_a_name_are_the_largest():
    assert largest(["b", "a", "c", "a", "b", "c", "c", "lonely"]) == ["c", "a", "b"]
    assert len(largest([f"{i:02d}" for i in range(30)] * 2)) == 24


def test_thumbnails_hide_none_before_them():
    points = np.asarray([[0.0, 0.0], [0.5, 0.5], [2.0, 0.0], [0.0, 0.9], [3.0, 0.1]])
    np.testing.assert_array_equal(apart(points, 1.0), [True, False, True, False, True])


def test_the_figures_are_the_same_on_every_run(points, same_file):
    classes = [f"${i}_" for i in LABEL]
    pixels = same_file(lambda file: draw_embedding(points, file, classes=classes, title="$"))
    plain = same_file(lambda file: draw_embedding(points, file))
    assert (pixels.std(-1) > 30).sum() > 3000 and not (plain.std(-1) > 30).any()
    images = np.repeat((DIGITS.images[:150, ..., None] * 15).astype(np.uint8), 3, axis=-1)
    images[..., 1:] = 0  # red and black: what is red is a thumbnail
    shown = same_file(lambda file: draw_thumbnails(points, images, file))
    assert (shown[..., 0].astype(int) - shown[..., 1] > 100).sum() > 5000
    same_file(lambda file: draw_thumbnails(points[:1], images[:1], file))
