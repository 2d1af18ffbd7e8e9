"""PCA maps: those of scikit-learn, and nothing left to choice."""

import numpy as np
import pytest
from scipy.stats import ortho_group, skew
from sklearn.decomposition import PCA

from vitjax.pictures import pca

M, H, W, D = 3, 5, 4, 12


def patches(seed=0, width=D):
    """Skewed features with a spectrum that falls: no two components are alike."""
    rows = np.random.default_rng(seed).exponential(size=(M, H, W, width))
    return rows * 0.7 ** np.arange(width)


def as_one(x):
    return x.reshape(-1, x.shape[-1])


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("width", [D, 70])  # fewer and more than there are patches
def test_components_are_those_of_scikit_learn_turned_to_positive_skewness(joint, width):
    features = patches(width=width)
    got = pca.components(features, joint)
    assert got.shape == (M, H, W, 10 if joint else 6)
    parts = [(features, got)] if joint else list(zip(features, got, strict=True))
    for part, ours in parts:
        count = ours.shape[-1]
        theirs = PCA(count, whiten=True, svd_solver="full").fit_transform(as_one(part))
        theirs /= theirs[:, 0].std()
        np.testing.assert_allclose(np.abs(as_one(ours)), np.abs(theirs), atol=1e-6)
        assert (skew(as_one(ours)) > 0).all()


def test_the_map_is_the_first_three_between_plus_and_minus_2_3():
    white = np.zeros((1, 1, 2, 4))
    white[0, 0, 0] = [-2.3, 0.0, 2.3, 9.0]
    white[0, 0, 1] = [-9.0, 1.15, 9.0, 0.0]
    np.testing.assert_array_equal(pca.colours(white)[0, 0], [[0, 128, 255], [0, 191, 255]])
    features = patches()
    np.testing.assert_array_equal(pca.pca_map(features), pca.colours(pca.components(features)))


@pytest.mark.parametrize("joint", [True, False])
def test_rotating_or_mirroring_the_feature_space_changes_no_picture(joint):
    features = patches()
    want = pca.pca_map(features, joint).astype(int)
    rotation = ortho_group.rvs(D, random_state=1)
    for moved in (features @ rotation, -features, 3.0 * features + 5.0):
        assert np.abs(pca.pca_map(moved, joint) - want).max() <= 1


def test_the_sign_a_solver_happens_to_give_changes_no_picture(monkeypatch):
    features = patches()
    even = np.concatenate([features, -features], axis=1)  # no skewness: the loadings decide
    want = [pca.pca_map(x) for x in (features, even)]

    class Flipped(PCA):
        def fit_transform(self, rows):
            scores = super().fit_transform(rows)
            signs = np.where(np.arange(scores.shape[1]) % 2, 1.0, -1.0)
            self.components_ = self.components_ * signs[:, None]
            return scores * signs

    monkeypatch.setattr(pca, "PCA", Flipped)
    for x, picture in zip((features, even), want, strict=True):
        np.testing.assert_array_equal(pca.pca_map(x), picture)
        assert (picture.reshape(-1, 3).std(axis=0) > 20).all()
    assert np.abs(skew(as_one(even))).max() < 1e-9


def test_without_skewness_the_largest_loading_decides():
    """Not the last digit of the skewness, which depends on the order of the patches."""
    rows = as_one(patches())
    rows = np.concatenate([rows, -rows])
    want = pca.principal(rows, 3)
    axes = np.linalg.lstsq(rows, want)[0]
    assert (np.take_along_axis(axes, np.abs(axes).argmax(0)[None], axis=0) > 0).all()
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(len(rows))
        np.testing.assert_allclose(pca.principal(rows[order], 3), want[order], atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_what_features_lack_is_grey():
    line = patches()[..., :1] * np.ones(D)  # one direction alone
    for features, living in ((line, 1), (np.full((M, H, W, D), 0.3, np.float32), 0)):
        for joint in (True, False):
            white = pca.components(features, joint)
            assert np.isfinite(white).all() and not white[..., living:].any()
            assert (pca.pca_map(features, joint)[..., living:] == 128).all()
    assert (pca.pca_map(np.ones((M, 1, 1, D)), joint=False) == 128).all()


def test_the_figure_is_the_same_on_every_run(same_file):
    features = patches()
    photos = np.random.default_rng(0).integers(0, 256, (M, 10, 8, 3), np.uint8)
    pixels = same_file(
        lambda file: pca.draw_components(photos, pca.components(features), file, count=2)
    )
    assert pixels.std() > 10
