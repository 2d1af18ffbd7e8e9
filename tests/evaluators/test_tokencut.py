"""TokenCut: SciPy's generalised eigenproblem, scikit-learn's clustering, and planted objects."""

import numpy as np
import pytest
from planted import looked_at
from scipy.linalg import eigh
from sklearn.cluster import spectral_clustering

from vitjax.evaluators import tokencut

H, W, SIZE, WIDTH = 6, 8, 24, 5  # patches of 4 x 3 pixels


def scene(*objects, spread=0.1, seed=0):
    """bool [h, w] of patches in the given boxes, and features: one direction inside, one out."""
    inside = np.zeros((H, W), bool)
    for top, left, bottom, right in objects:
        inside[top:bottom, left:right] = True
    rng = np.random.default_rng(seed)
    patches = np.where(inside[..., None], np.eye(WIDTH)[0], np.eye(WIDTH)[1])
    return inside, patches + spread * rng.normal(size=(H, W, WIDTH))


def pixels(inside):
    return inside.repeat(SIZE // H, axis=0).repeat(SIZE // W, axis=1)


def test_the_eigenvector_is_that_of_the_generalised_problem():
    rng = np.random.default_rng(0)
    weights = tokencut.affinity(rng.normal(size=(23, 3)), tau=0.3)
    assert 0.1 < np.mean(weights == 1) < 0.9
    degree = np.diag(weights.sum(axis=1))
    values, vectors = eigh(degree - weights, degree)
    assert values[2] - values[1] > 1e-3  # one vector, up to its sign
    got = tokencut.second_eigenvector(weights)
    np.testing.assert_allclose(got * np.sign(got @ vectors[:, 1]), vectors[:, 1], atol=1e-9)


def test_edges_are_the_cosines_above_tau():
    rows = np.array([[1, 0], [5, 0], [1, 1], [0, 2], [0, 0]], np.float32)
    got = tokencut.affinity(rows, tau=0.5)
    want = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0] * 5]
    np.testing.assert_array_equal(got, np.where(np.array(want) > 0, 1, 1e-5))


@pytest.mark.parametrize("box", [(1, 2, 4, 5), (0, 0, 2, 3), (2, 1, 6, 4)])
def test_a_planted_object_is_recovered_exactly_and_as_scikit_learn_has_it(box):
    inside, patches = scene(box)
    got = tokencut.discover(patches.astype(np.float32), 0.2)
    np.testing.assert_array_equal(got, inside)
    _, patches = scene(box, spread=0.03)  # no edge between the two: k-means is exact as well
    weights = tokencut.affinity(patches.reshape(-1, WIDTH), 0.2)
    two = spectral_clustering(weights, n_clusters=2, random_state=0).reshape(H, W)
    np.testing.assert_array_equal(got, two == two[box[0], box[1]])


def test_planted_objects_score_one():
    scenes = [scene(box, seed=i) for i, box in enumerate(((1, 2, 4, 5), (0, 0, 2, 3)))]
    mask = np.stack([7 * pixels(inside) for inside, _ in scenes])
    got = tokencut.run(None, looked_at(np.stack([patches for _, patches in scenes]), mask=mask))
    assert got == {"iou": 1.0, "corloc": 1.0}


def test_one_connected_region_of_the_object_s_side_is_kept():
    boxes = ((0, 1, 3, 4), (4, 6, 6, 8))
    inside, patches = scene(*boxes)
    got = tokencut.discover(patches.astype(np.float32), 0.2)
    assert any((got == scene(box)[0]).all() for box in boxes)
    assert got.sum() < inside.sum()
    inside, patches = scene((0, 1, 3, 4), (3, 4, 5, 6))  # they touch at a corner alone
    assert tokencut.discover(patches.astype(np.float32), 0.2).sum() < inside.sum()


def test_iou_and_corloc_by_hand():
    inside, patches = scene((1, 2, 4, 5))  # discovered: 3 x 3 patches of 4 x 3 pixels
    whole, half, none = pixels(inside), pixels(scene((1, 2, 4, 8))[0]), pixels(inside & False)
    far = pixels(scene((5, 0, 6, 8))[0])
    mask = np.stack([whole, half, far, none]).astype(np.uint8)
    got = tokencut.run(None, looked_at(np.stack([patches] * 4), mask=mask))
    # The last image shows no object. Half of a box is not more than half.
    assert got == pytest.approx({"iou": (1 + 1 / 2 + 0) / 3, "corloc": 1 / 3})
    # Of two objects in an image one is enough, also where they touch and only their classes differ.
    two = np.where(whole, 3, np.where(half, 4, 0))[None]
    got = tokencut.run(None, looked_at(patches[None], mask=two))
    assert got == pytest.approx({"iou": 1 / 2, "corloc": 1.0})


def test_unknown_pixels_are_left_out():
    inside, patches = scene((1, 2, 4, 5))
    mask = np.where(pixels(inside), 1, 0)
    mask[4:8, 3:15] = 255  # one patch of background and the object's first line
    got = tokencut.run(None, looked_at(patches[None], mask=mask[None]))
    assert got == {"iou": 1.0, "corloc": 1.0}  # 2 of 3 lines of its box are known


def test_objects_are_connected_regions_of_one_class():
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[4, 5] = 2  # two touch at a corner: one object
    mask[4, 6] = 3
    mask[5] = 255
    assert sorted(tokencut.boxes(mask)) == [(0, 0, 2, 2), (4, 5, 5, 6), (4, 6, 5, 7)]


def test_the_sign_of_the_features_scale_and_rotation_do_not_matter():
    _, patches = scene((1, 2, 4, 5), spread=0.3)
    want = tokencut.discover(patches, 0.2)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    for other in (-patches, 100 * patches, patches @ rotation):
        np.testing.assert_array_equal(tokencut.discover(other, 0.2), want)


def test_bad_settings_and_what_cannot_be_measured_are_one_line():
    inside, patches = scene((1, 2, 4, 5))
    split = looked_at(patches[None], mask=pixels(inside)[None])
    for tau in (1.0, -2.0, float("nan")):
        with pytest.raises(ValueError, match=r"^evaluators\.tokencut\.tau=[^\n]*expected[^\n]*$"):
            tokencut.run(None, split, tau=tau)
    blind = split._replace(sample=split.sample._replace(mask=None))
    with pytest.raises(ValueError, match=r"^evaluators\.tokencut: the data set has no masks"):
        tokencut.run(None, blind)
    bare = looked_at(patches[None], mask=0 * pixels(inside)[None])
    with pytest.raises(ValueError, match=r"^evaluators\.tokencut: the masks show no object"):
        tokencut.run(None, bare)


def test_a_map_of_one_patch_is_all_object():
    assert tokencut.discover(np.ones((1, 1, 3)), 0.2).tolist() == [[True]]
