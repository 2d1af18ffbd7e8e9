"""Retrieval against scikit-learn's average precision, one query after the other."""

import jax
import numpy as np
import pytest
from planted import eight_devices, eight_in_a_row, frozen
from sklearn.metrics import average_precision_score

from vitjax.evaluators import retrieval


def clusters(images, seed=0, width=11, classes=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    label = rng.integers(0, classes, images)
    return frozen(centres[label] + 1.2 * rng.normal(size=(images, width)), label)


def oracle(validation):
    rows = validation.pooled.astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = np.round(rows @ rows.T, 6)  # no ranks among equals here, either
    precisions, firsts = [], []
    for query in range(len(rows)):
        others = np.arange(len(rows)) != query
        relevant = (validation.label == validation.label[query])[others]
        if relevant.any():
            precisions.append(average_precision_score(relevant, similarity[query, others]))
            nearest = similarity[query, others] == similarity[query, others].max()
            firsts.append(relevant[nearest].mean())
    return {"map": np.mean(precisions), "recall_at_1": np.mean(firsts)}


@pytest.fixture
def rare():
    """Two classes of one image each, among 173: their queries are skipped."""
    split = clusters(173)
    split.label[[40, 90]] = 17, 23
    return split


def test_it_is_the_average_precision_of_scikit_learn(rare):
    got = retrieval.run(None, rare)
    assert got == pytest.approx(oracle(rare), abs=1e-5)
    assert 1 / 6 < got["map"] < got["recall_at_1"] < 1


def test_eight_devices_give_the_numbers_of_one(rare, monkeypatch):
    alone = retrieval.run(None, rare)
    monkeypatch.setattr(
        retrieval, "QUERIES", 8
    )  # several chunks on a device, the last one filled up
    assert retrieval.run(None, rare) == pytest.approx(alone, abs=1e-6)
    mesh = eight_devices()
    with jax.set_mesh(mesh):
        assert retrieval.run(None, rare) == pytest.approx(alone, abs=1e-6)


def test_fewer_queries_than_devices():
    split = frozen(np.eye(5)[[0, 0, 1, 1, 2]], [0, 0, 1, 1, 2])
    with jax.set_mesh(eight_in_a_row()):
        assert retrieval.run(None, split) == {"map": 1.0, "recall_at_1": 1.0}


def test_equally_near_images_are_ranked_as_scikit_learn_ranks_them():
    split = clusters(173)
    twins = frozen(split.pooled[np.arange(173) // 3], split.label)  # three of each, mixed classes
    assert retrieval.run(None, twins) == pytest.approx(oracle(twins), abs=1e-5)


def test_collapsed_features_have_the_score_of_chance_in_any_order():
    label = np.sort(clusters(173).label)
    row = np.random.default_rng(3).normal(size=11)
    rows = np.outer(np.random.default_rng(4).uniform(1, 9, 173), row)
    got = retrieval.run(None, frozen(rows, label))
    chance = np.mean((np.bincount(label)[label] - 1) / 172)
    assert got == pytest.approx({"map": chance, "recall_at_1": chance})


def test_a_hand_made_case():
    angles = np.radians([0, 10, 25, 80])
    split = frozen(np.stack([np.cos(angles), np.sin(angles)], axis=1), [0, 1, 0, 1])
    # Ranks of the one relevant image: 2 of 3 for 0, 3 for 10, 2 for 25 and 2 for 80 degrees.
    got = retrieval.run(None, split)
    assert got == pytest.approx({"map": (1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4, "recall_at_1": 0.0})


def test_without_two_images_of_a_class_there_is_nothing_to_find():
    with pytest.raises(ValueError, match=r"^evaluators\.retrieval: no class has two [^\n]*$"):
        retrieval.run(None, frozen(np.eye(3), [0, 1, 2]))
