"""Pixels, regions and boxes: by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from vitjax.evaluators import overlap


def draw(seed, high, shape=(3, 5, 7)):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def test_confusion_and_its_numbers_are_those_of_scikit_learn():
    true, predicted = draw(0, 4), draw(1, 4)
    counts = overlap.confusion(true, predicted, 4)
    np.testing.assert_array_equal(counts[:, :4], confusion_matrix(true.ravel(), predicted.ravel()))
    assert not counts[:, 4].any()
    want = jaccard_score(true.ravel(), predicted.ravel(), average="macro")
    assert overlap.miou(counts) == pytest.approx(want)
    assert overlap.pixel_accuracy(counts) == accuracy_score(true.ravel(), predicted.ravel())


def test_miou_skips_an_absent_class_and_unknown_pixels():
    true = np.array([[[0, 0, 0, 1], [1, 1, 255, 255]]], np.uint8)
    predicted = np.array([[[0, 0, 1, 1], [1, 0, 1, 2]]], np.uint8)
    # class 0: 2 of 4; class 1: 2 of 4; class 2 stands on an unknown pixel alone; class 3 nowhere.
    counts = overlap.confusion(true, predicted, 4)
    assert counts.sum() == 6
    assert overlap.miou(counts) == 0.5
    assert overlap.pixel_accuracy(counts) == pytest.approx(4 / 6)
    predicted[0, 0, 3] = 2  # now class 2 is predicted where it is not: its IoU of 0 counts
    counts = overlap.confusion(true, predicted, 4)
    assert overlap.miou(counts) == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)


def test_predicting_nothing_is_wrong_and_no_class_s_mistake():
    true, predicted = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 255, 1, 1]], np.uint8)
    counts = overlap.confusion(true, predicted, 2)
    assert overlap.miou(counts) == (1 / 2 + 2 / 2) / 2
    assert overlap.pixel_accuracy(counts) == 0.75


def test_the_whole_set_is_counted_not_the_mean_of_its_images():
    true = np.array([[0, 0, 0, 0], [0, 1, 1, 1]], np.uint8)
    predicted = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
    assert overlap.miou(overlap.confusion(true, predicted, 2)) == (4 / 5 + 3 / 4) / 2


def test_nothing_known_is_nan():
    unknown = np.full((2, 3), 255, np.uint8)
    counts = overlap.confusion(unknown, np.zeros_like(unknown), 2)
    assert math.isnan(overlap.miou(counts)) and math.isnan(overlap.pixel_accuracy(counts))
    empty = np.zeros((2, 3), bool)
    assert math.isnan(overlap.iou(empty, empty))


def test_iou_of_regions():
    first, second = draw(2, 2, (5, 7)) > 0, draw(3, 2, (5, 7)) > 0
    assert overlap.iou(first, second) == jaccard_score(first.ravel(), second.ravel())
    assert overlap.iou(first, first) == 1.0
    assert overlap.iou(first, np.zeros_like(first)) == 0.0


def test_boxes_by_hand():
    region = np.zeros((6, 9), bool)
    region[1, 4] = region[3, 2] = True
    assert overlap.box(region) == (1, 2, 4, 5)
    # 3 x 3 and 4 x 3, 2 x 3 of them shared
    assert overlap.box_iou((1, 2, 4, 5), (2, 2, 6, 5)) == 6 / (9 + 12 - 6)
    assert overlap.box_iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0  # they touch
    assert overlap.box_iou((0, 0, 2, 2), (3, 3, 4, 4)) == 0.0  # apart in both directions
    assert overlap.box_iou((1, 2, 4, 5), (1, 2, 4, 5)) == 1.0


def test_masks_of_one_class_are_no_test_of_anything():
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, 0] = 255
    with pytest.raises(
        ValueError, match=r"^evaluators\.patch_knn: [^\n]*classes \[0\] only[^\n]*$"
    ):
        overlap.require_two_classes(masks, "patch_knn")
    masks[1, 1] = 3
    overlap.require_two_classes(masks, "patch_knn")
