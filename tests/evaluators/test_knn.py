"""Weighted kNN against a NumPy oracle in float64 and against scikit-learn."""

import jax
import numpy as np
import pytest
from planted import eight_devices, eight_in_a_row, frozen
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from vitjax.evaluators import Frozen, knn


@pytest.fixture(scope="module")
def digits():
    """Real handwritten digits as 64 pixels: 1087 to train, 701 to validate."""
    pixels, label = load_digits(return_X_y=True)
    return frozen(pixels[:1087], label[:1087]), frozen(pixels[1087:1788], label[1087:1788])


@pytest.fixture
def noise():
    """Clusters that overlap: 173 to train, 131 to validate, 11 wide, 6 classes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 11))

    def draw(examples):
        label = rng.integers(0, 6, examples)
        return frozen(centres[label] + 1.2 * rng.normal(size=(examples, 11)), label)

    return draw(173), draw(131)


def oracle(train, validation, ks, temperature):
    """The protocol, one query and one neighbour after the other."""

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = unit(validation.pooled.astype(float)) @ unit(train.pooled.astype(float)).T
    order = np.argsort(-similarity, axis=1, kind="stable")
    predictions = []
    for k in ks:
        scores = np.zeros((len(order), train.label.max() + 1))
        for query, nearest in enumerate(order[:, :k]):
            for at in nearest:
                scores[query, train.label[at]] += np.exp(similarity[query, at] / temperature)
        predictions.append(scores.argmax(1))
    return {
        f"top1_k{k}": np.mean(predicted == validation.label)
        for k, predicted in zip(ks, predictions, strict=True)
    }


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_is_the_definition(noise, temperature):
    got = knn.run(*noise, k=(1, 10, 50), temperature=temperature)
    want = oracle(*noise, (1, 10, 50), temperature)
    assert got == pytest.approx(want)
    assert list(got) == ["top1_k1", "top1_k10", "top1_k50"]
    assert len(set(got.values())) > 1 and min(got.values()) > 1 / 6


def test_knn_is_that_of_scikit_learn_on_digits(digits):
    train, validation = digits
    got = knn.run(train, validation)
    for k in (10, 20, 100, 200):
        judge = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
        )
        want = judge.fit(train.pooled, train.label).score(validation.pooled, validation.label)
        assert got[f"top1_k{k}"] == pytest.approx(want, abs=1.01 / len(validation.label))
    assert got["top1_k10"] > 0.95


def test_eight_devices_agree_with_one_to_the_last_example(digits, noise):
    mesh = eight_devices()
    for train, validation in (digits, noise):
        alone = knn.run(train, validation, k=(3, 10, 100))
        with jax.set_mesh(mesh):
            assert knn.run(train, validation, k=(3, 10, 100)) == alone


def test_scale_of_the_features_does_not_matter(noise):
    train, validation = noise
    scaled = train._replace(pooled=train.pooled * np.float32(1000))
    assert knn.run(scaled, validation, k=(5,)) == knn.run(train, validation, k=(5,))


def test_k_is_clamped_to_the_train_size_and_named_so(noise):
    train, validation = noise
    few = Frozen(train.label[:13], train.pooled[:13])
    got = knn.run(few, validation, k=(200, 5, 10, 100))
    assert list(got) == ["top1_k5", "top1_k10", "top1_k13"]
    assert got == pytest.approx(oracle(few, validation, (5, 10, 13), 0.07))
    mesh = eight_in_a_row()
    with jax.set_mesh(mesh):  # two rows a device, some of them padding
        assert knn.run(few, validation, k=(200, 5, 10, 100)) == got


def test_ties_go_to_the_lower_class_and_the_earlier_example():
    along = np.tile([[1.0, 0.0]], (16, 1))
    label = np.array([4, 1, 1, 4] + [2] * 12)
    mesh = eight_in_a_row()
    for k, want in ((1, 4), (2, 1), (3, 1), (4, 1), (16, 2)):
        bank, query = frozen(along, label), frozen([[3.0, 0.0]], [want])
        assert knn.run(bank, query, k=(k,)) == {f"top1_k{k}": 1.0}
        with jax.set_mesh(mesh):
            assert knn.run(bank, query, k=(k,)) == {f"top1_k{k}": 1.0}


def test_rows_that_fill_up_a_device_are_nobody_s_neighbours():
    mesh = eight_in_a_row()
    bank = frozen(np.tile([[1.0, 0.0]], (9, 1)), [3] * 9)
    with jax.set_mesh(mesh):  # nine rows on eight devices; zeros are nearer to the query than any
        assert knn.run(bank, frozen([[-1.0, 0.0]], [3]), k=(9,)) == {"top1_k9": 1.0}


def test_a_label_that_train_lacks_is_wrong_not_an_error():
    assert knn.run(frozen([[1, 0]], [0]), frozen([[1, 0], [0, 1]], [0, 9])) == {"top1_k1": 0.5}


def test_features_of_zeros_are_legal():
    got = knn.run(
        frozen(np.zeros((4, 2)), [1, 1, 1, 0]), frozen(np.zeros((3, 2)), [1, 1, 0]), k=(4,)
    )
    assert got["top1_k4"] == pytest.approx(2 / 3)


def test_bad_settings_are_one_line_that_names_the_key(noise):
    for settings, key in (
        ({"k": (0,)}, "k"),
        ({"k": ()}, "k"),
        ({"temperature": 0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=rf"^evaluators\.knn\.{key}=[^\n]*expected[^\n]*$"):
            knn.run(*noise, **settings)
