"""Few-shot ridge against scikit-learn's, and the rules of its draws."""

import jax
import numpy as np
import pytest
from planted import eight_in_a_row, frozen
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from vitjax.evaluators import fewshot


def clusters(examples, seed=0, spread=1.0, width=13, classes=5):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    label = np.arange(examples) % classes
    return frozen(centres[label] + spread * rng.normal(size=(examples, width)), label)


@pytest.mark.parametrize("shots", [1, 2, 3, 20])  # 5, 10, 15 and 100 rows, 14 wide
def test_the_probe_is_scikit_learn_s_ridge_on_the_few_shot_set(shots):
    train, validation = clusters(203), clusters(157, seed=1)
    want = []
    for seed in (0, 1, 2):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.flatnonzero(train.label == c))[:shots] for c in range(5)]
        rows = np.concatenate(rows)
        scaler = StandardScaler().fit(train.pooled[rows])
        scaler.scale_ = scaler.scale_ + 1e-5

        def widen(split, scaler=scaler):
            scaled = scaler.transform(split.pooled.astype(float))
            return np.column_stack([scaled, np.full(len(scaled), 100.0)])

        judge = Ridge(alpha=1024.0, fit_intercept=False, solver="cholesky")
        judge.fit(widen(train)[rows], 2.0 * np.eye(5)[train.label[rows]] - 1.0)
        outputs = judge.predict(widen(validation))
        kernel, bias = fewshot.fit(train.pooled[rows], train.label[rows], 5, 1024.0)
        np.testing.assert_allclose(validation.pooled @ kernel + bias, outputs, atol=1e-8)
        want.append(np.mean(outputs.argmax(1) == validation.label))
    got = fewshot.run(train, validation, shots=(shots,))
    assert got == pytest.approx(
        {f"top1_{shots}shot": np.mean(want), f"top1_{shots}shot_std": np.std(want)}
    )
    assert np.std(want) > 0 and np.mean(want) > 0.3


@pytest.mark.parametrize("n", [10, 11, 12])  # one side of the width, the width, the other side
def test_both_systems_have_the_solution_of_scikit_learn(n):
    rng = np.random.default_rng(n)
    rows, targets = rng.normal(size=(n, 11)), rng.normal(size=(n, 3))
    judge = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(rows, targets)
    np.testing.assert_allclose(fewshot.ridge(rows, targets, 0.7), judge.coef_.T, atol=1e-10)


def test_features_seven_times_as_large_have_the_same_accuracy():
    train, validation = clusters(203), clusters(157, seed=1)
    seven = np.float32(7)
    got = fewshot.run(
        train._replace(pooled=train.pooled * seven),
        validation._replace(pooled=validation.pooled * seven),
    )
    assert got == fewshot.run(train, validation)


def test_more_shots_are_more_accurate_and_sets_of_a_seed_are_nested():
    train, validation = clusters(203, spread=1.5), clusters(157, seed=1, spread=1.5)
    got = fewshot.run(train, validation)
    assert got["top1_1shot"] < got["top1_5shot"] < got["top1_25shot"]
    few, many = (fewshot.draw(train.label, shots, seed=4) for shots in (3, 8))
    assert len(few) == 15 and set(few) < set(many)
    assert (np.bincount(train.label[many]) == 8).all()


def test_counts_above_the_smallest_class_are_left_out():
    train, validation = clusters(203), clusters(157, seed=1)
    cut = np.flatnonzero((train.label != 3) | (np.cumsum(train.label == 3) <= 7))
    small = frozen(train.pooled[cut], train.label[cut])
    assert list(fewshot.run(small, validation, shots=(10, 7, 1, 8), seeds=(0,))) == [
        *("top1_1shot", "top1_1shot_std", "top1_7shot", "top1_7shot_std")
    ]
    with pytest.raises(ValueError, match=r"^evaluators\.fewshot\.shots=\(8, 25\): [^\n]*most 7"):
        fewshot.run(small, validation, shots=(8, 25))


def test_classes_are_those_of_train_wherever_their_numbers_lie():
    train, validation = clusters(203), clusters(157, seed=1)
    names = np.array([40, 3, 900, 17, 18], np.int32)
    got = fewshot.run(
        train._replace(label=names[train.label]),
        validation._replace(label=names[validation.label]),
        shots=(25,),
    )
    # Other numbers are another order of the classes, so other draws: as accurate, not equal.
    want = fewshot.run(train, validation, shots=(25,))
    assert got["top1_25shot"] == pytest.approx(want["top1_25shot"], abs=0.05)
    strange = validation._replace(label=np.full_like(validation.label, 9))
    assert fewshot.run(train, strange, shots=(25,))["top1_25shot"] == 0.0


def test_a_mesh_changes_nothing():
    train, validation = clusters(203), clusters(157, seed=1)
    alone = fewshot.run(train, validation)
    with jax.set_mesh(eight_in_a_row()):
        assert fewshot.run(train, validation) == alone


@pytest.mark.parametrize(
    ("key", "value"),
    [("shots", ()), ("shots", (0, 5)), ("seeds", ()), ("seeds", (-1,)), ("l2", 0.0)],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.fewshot\.{key}=[^\n]*expected[^\n]*$"):
        fewshot.run(clusters(20), clusters(20), **{key: value})
