"""Maps resized and cut up as others do it, and the same numbers on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import eight_devices
from scipy import stats

from vitjax.evaluators import Frozen, maps


@pytest.mark.parametrize(("pixels", "cells"), [(24, 6), (10, 4), (7, 1), (5, 5), (3, 6)])
def test_upsampling_is_the_bilinear_resize_of_jax(pixels, cells):
    line = np.random.default_rng(0).normal(size=(cells, 3)).astype(np.float32)
    want = jax.image.resize(line, (pixels, 3), "linear", antialias=False)
    np.testing.assert_allclose(maps.upsampling(pixels, cells) @ line, want, atol=1e-6)


def test_bilinear_weights_by_hand():
    at = np.array([[0.2, 0.5], [1.25, 2.9]])
    want = [[[1, 0, 0], [1, 0, 0]], [[0.25, 0.75, 0], [0, 0, 1]]]
    np.testing.assert_allclose(maps.bilinear(at, 3), want, atol=1e-7)


def test_each_pixel_goes_to_the_patch_that_holds_its_centre():
    np.testing.assert_array_equal(maps.nearest(6, 3), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(maps.nearest(5, 2), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(maps.nearest(4, 6), [0, 2, 3, 5])


def test_label_patches_hold_the_pixels_of_their_patch():
    labels = np.random.default_rng(0).integers(0, 9, (2, 12, 12)).astype(np.uint8)
    got = maps.label_patches(labels, 3, 6)
    assert got.shape == (2, 3, 6, 4 * 2)
    for i, (top, left) in enumerate(((0, 0), (8, 10))):
        at = got[1, 0, 0] if i == 0 else got[1, 2, 5]
        np.testing.assert_array_equal(at.reshape(4, 2), labels[1, top : top + 4, left : left + 2])


def test_labels_that_the_grid_does_not_divide_are_resized_by_nearest_neighbour():
    labels = np.random.default_rng(0).integers(0, 9, (2, 11, 11)).astype(np.uint8)
    got = maps.label_patches(labels, 3, 2)  # 9 x 10 pixels, 3 x 5 a patch
    small = jax.image.resize(labels, (2, 9, 10), "nearest")
    np.testing.assert_array_equal(got[1, 1, 1].reshape(3, 5), small[1, 3:6, 5:10])


def test_majority_is_the_mode_of_scipy():
    labels = np.random.default_rng(0).choice([0, 1, 7, 255], (3, 4, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(maps.majority(labels), stats.mode(labels, axis=-1).mode)
    assert maps.majority(np.array([[7, 3, 255, 255, 3]], np.uint8)) == [3]


def weighed(shared, row):
    return {"sum": jnp.sum(shared["weights"] * row["x"]), "twice": 2 * row["n"]}


@pytest.mark.parametrize("together", [False, True])
def test_each_row_is_worked_on_once_on_any_mesh(together):
    mesh = eight_devices()
    shared = {"weights": np.arange(1.0, 4.0, dtype=np.float32)}
    for count in (3, 8, 11):  # fewer than devices, as many, more
        x = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
        rows = {"x": x, "n": np.arange(count, dtype=np.int32)}
        alone = maps.each_row(weighed, shared, rows, together)
        np.testing.assert_allclose(alone["sum"], x @ shared["weights"], rtol=1e-5)
        np.testing.assert_array_equal(alone["twice"], 2 * np.arange(count))
        with jax.set_mesh(mesh):
            got = maps.each_row(weighed, shared, rows, together)
        jax.tree.map(np.testing.assert_array_equal, got, alone)


def test_data_without_masks_is_one_line_that_names_the_evaluator():
    split = Frozen(np.zeros(2, np.int32), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"^evaluators\.x: the data set has no masks; [^\n]*$"):
        maps.sample_with(split, ("mask",), "x")
