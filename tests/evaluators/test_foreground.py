"""The first component: scikit-learn and SciPy judge it, and no sign is chosen by eye."""

import numpy as np
import pytest
from planted import looked_at
from scipy.stats import ortho_group, skew
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from vitjax.evaluators import foreground

H, W, SIZE, WIDTH = 3, 2, 12, 5


def planted(seed, count, spread, share=0.3, direction=(3, -4, 0, 0, 0)):
    """A share of the patches is object, moved along a direction; masks are made of whole patches.
    An image without an object is among them."""
    rng = np.random.default_rng(seed)
    inside = rng.random((count, H, W)) < share
    inside[0] = False
    patches = inside[..., None] * np.array(direction) + spread * rng.normal(
        size=(count, H, W, WIDTH)
    )
    mask = (
        inside.repeat(SIZE // H, axis=1).repeat(SIZE // W, axis=2)
        * (2 + np.arange(count) % 3)[:, None, None]
    )
    return looked_at(patches, mask=mask)


def test_a_planted_object_is_separated_exactly_whichever_way_it_lies():
    for direction in ((3, -4, 0, 0, 0), (-3, 4, 0, 0, 0)):
        split = planted(0, 17, 0.1, direction=direction)
        assert foreground.run(None, split) == {"iou": 1.0, "auroc": 1.0}


def test_the_sign_follows_the_skewness_so_the_rarer_side_is_the_object():
    assert foreground.run(None, planted(0, 17, 0.1, share=0.8)) == {"iou": 0.0, "auroc": 1.0}


def test_the_component_is_that_of_scikit_learn_and_leans_right():
    patches = np.random.default_rng(0).gamma(0.7, size=(4, H, W, WIDTH)).astype(np.float32)
    patches *= np.array([1, 1, -3, 1, 1], np.float32)
    got = foreground.first_component(patches)
    want = PCA(1, svd_solver="full").fit_transform(patches.reshape(-1, WIDTH).astype(float))[:, 0]
    want *= np.sign(skew(want))
    np.testing.assert_allclose(got.ravel(), want, atol=1e-9)
    assert skew(got.ravel()) > 0.5


def test_flipped_and_rotated_features_have_the_same_component():
    patches = np.random.default_rng(0).gamma(0.7, size=(4, H, W, WIDTH))
    rotation = ortho_group.rvs(WIDTH, random_state=1)
    want = foreground.first_component(patches)
    for other in (-patches, patches @ rotation, patches + 7):
        np.testing.assert_allclose(foreground.first_component(other), want, atol=1e-9)


def test_without_skewness_the_largest_loading_is_positive():
    line = np.linspace(-1, 1, 6).reshape(1, H, W, 1)
    for direction in (np.array([3.0, -4.0]), np.array([-3.0, 4.0])):
        got = foreground.first_component(line * direction)
        np.testing.assert_allclose(got, 5 * line[..., 0] * np.sign(direction[1]), atol=1e-12)


def test_auroc_is_that_of_the_upsampled_component_on_known_pixels():
    split = planted(0, 9, 3.0)
    mask = split.sample.mask
    rng = np.random.default_rng(1)
    mask[rng.random(mask.shape) < 0.2] = 255
    mask[rng.random(mask.shape) < 0.2] = 1
    got = foreground.run(None, split)
    component = foreground.first_component(split.sample.patches)
    pixels = component.repeat(SIZE // H, axis=1).repeat(SIZE // W, axis=2)
    known = mask != 255
    area = roc_auc_score(mask[known] > 0, pixels[known])
    assert got["auroc"] == pytest.approx(max(area, 1 - area))
    overlaps = []
    for above, label in zip(pixels > 0, mask, strict=True):
        both, either = above & (label > 0), above | (label > 0)
        overlaps.append(both[label != 255].sum() / either[label != 255].sum())
    assert got["iou"] == pytest.approx(np.mean(overlaps))
    assert 0.5 < got["auroc"] < 1 and 0 < got["iou"] < 1


def test_a_component_that_orders_pixels_backwards_separates_as_well():
    component = np.arange(6.0).reshape(1, H, W)
    inside = (foreground.to_pixels(component[0], SIZE) > 2)[None]
    assert foreground.auroc(component, inside, ~inside) == 1.0
    assert foreground.auroc(component, ~inside, inside) == 1.0


def test_patches_go_to_the_pixels_they_hold_where_the_grid_does_not_divide_the_image():
    got = foreground.to_pixels(np.arange(6).reshape(H, W), 5)
    assert got.shape == (5, 5)
    np.testing.assert_array_equal(got[:, 0], [0, 0, 2, 4, 4])
    np.testing.assert_array_equal(got[0], [0, 0, 1, 1, 1])


def test_constant_features_are_legal():
    split = planted(0, 5, 0.1)
    split.sample.patches[:] = 1
    assert foreground.run(None, split) == {"iou": 0.0, "auroc": 0.5}


def test_what_cannot_be_measured_is_one_line():
    split = planted(0, 5, 0.1)
    blind = split._replace(sample=split.sample._replace(mask=None))
    with pytest.raises(ValueError, match=r"^evaluators\.foreground: the data set has no masks"):
        foreground.run(None, blind)
    for label in (0, 3):
        filled = looked_at(split.sample.patches, mask=np.full_like(split.sample.mask, label))
        with pytest.raises(ValueError, match=r"^evaluators\.foreground: the masks show [^\n]*$"):
            foreground.run(None, filled)
