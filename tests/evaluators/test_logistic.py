"""Logistic regression: the minimum of scikit-learn, and an honest choice of C."""

import jax
import numpy as np
import pytest
from planted import eight_devices, frozen
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss

from vitjax.evaluators import Frozen, logistic
from vitjax.evaluators.features import cut, evaluation_mesh
from vitjax.evaluators.linear import split

FEW = (1e-4, 1e-2, 1.0, 1e2)


def clusters(examples, seed=0, spread=3.0, width=13):
    """Five classes; dimensions of very different size, far from zero."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).normal(size=(5, width))
    label = rng.integers(0, 5, examples)
    rows = centres[label] + spread * rng.normal(size=(examples, width))
    return frozen(rows * np.geomspace(0.05, 2, width) + 4, label)


def judge(c):
    return LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000)


def log_probabilities(rows, kernel, bias):
    logits = rows.astype(float) @ kernel + bias
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


@pytest.mark.parametrize("examples", [203, 29])  # few: the classes can be told apart without error
def test_the_minimum_is_that_of_scikit_learn(examples):
    train, validation = clusters(203), clusters(157, seed=1)
    few = Frozen(train.label[:examples], train.pooled[:examples])
    mean, axes, variance = logistic.principal_axes(train.pooled)
    rows, label, weight = (
        cut(host, evaluation_mesh(), 0)
        for host in (
            (train.pooled - mean) @ axes,
            train.label,
            (np.arange(203) < examples).astype(np.float32),  # the rest weighs nothing
        )
    )
    head = {"kernel": np.zeros((13, 5), np.float32), "bias": np.zeros(5, np.float32)}
    for c in (1e-6, 1e-3, 1.0, 100.0):
        head = logistic.solve(
            rows,
            label,
            head,
            np.float32(c),
            weight=weight,
            variance=variance,
            iterations=np.int32(1000),
        )
        kernel = axes.astype(float) @ np.asarray(head["kernel"])
        got = kernel, np.asarray(head["bias"]) - mean @ kernel
        fitted = judge(c).fit(few.pooled.astype(float), few.label)
        want = fitted.coef_.T, fitted.intercept_

        def objective(kernel, bias, c=c):
            true = log_probabilities(few.pooled, kernel, bias)[range(examples), few.label]
            return np.sum(kernel**2) / (2 * c) - np.sum(true)

        assert objective(*got) == pytest.approx(objective(*want), rel=1e-6)
        np.testing.assert_allclose(
            np.exp(log_probabilities(validation.pooled, *got)),
            np.exp(log_probabilities(validation.pooled, *want)),
            atol=0.01,
        )


def test_the_protocol_done_with_scikit_learn_has_these_numbers():
    train, validation = clusters(203), clusters(157, seed=1)
    held, rest = split(203, 0.1, seed=0)
    rows, label = train.pooled.astype(float), train.label
    tried = []
    for c in FEW:
        fitted = judge(c).fit(rows[rest], label[rest])
        loss = log_loss(label[held], fitted.predict_proba(rows[held]))
        tried.append((-fitted.score(rows[held], label[held]), loss, c))
    best = min(tried)
    final = judge(best[2]).fit(rows, label).predict(validation.pooled)
    got = logistic.run(train, validation, grid=FEW)
    assert got == pytest.approx(
        {
            "top1": np.mean(final == validation.label),
            "mean_per_class": balanced_accuracy_score(validation.label, final),
            "C": best[2],
            "holdout_top1": -best[0],
        },
        abs=1e-6,
    )
    assert 0.5 < got["top1"] < 1.0 and len({score for score, _, _ in tried}) > 1


def test_eight_devices_give_the_numbers_of_one():
    train, validation = clusters(203), clusters(157, seed=1)
    alone = logistic.run(train, validation, grid=FEW)
    mesh = eight_devices()
    with jax.set_mesh(mesh):
        assert logistic.run(train, validation, grid=FEW) == pytest.approx(alone, abs=1e-6)


def test_the_order_of_the_grid_and_an_offset_of_the_features_do_not_matter():
    train, validation = clusters(203), clusters(157, seed=1)
    alone = logistic.run(train, validation, grid=FEW)
    assert logistic.run(train, validation, grid=FEW[::-1]) == alone
    far = [s._replace(pooled=s.pooled + np.float32(64)) for s in (train, validation)]
    assert logistic.run(*far, grid=FEW) == pytest.approx(alone, abs=0.007)


def test_validation_has_no_say_in_the_choice():
    train, validation = clusters(203), clusters(157, seed=1)
    got = logistic.run(train, validation, grid=FEW)
    mixed = np.random.default_rng(2).permutation(validation.label)
    other = logistic.run(train, validation._replace(label=mixed), grid=FEW)
    assert (other["C"], other["holdout_top1"]) == (got["C"], got["holdout_top1"])
    assert other["top1"] < got["top1"] - 0.2


def test_the_c_that_is_best_on_the_held_out_examples_is_chosen():
    train = clusters(203, spread=0.5)
    _, rest = split(203, 0.3, seed=0)
    label = train.label.copy()
    label[rest] = (label[rest] + 1) % 5  # who learns the rest fails on the held-out examples
    got = logistic.run(
        train._replace(label=label), clusters(157, seed=1), grid=(1e4, 1e-12), holdout=0.3
    )
    assert got["C"] == 1e-12


def test_a_label_that_train_lacks_is_wrong_and_constant_features_are_legal():
    train, validation = clusters(203), clusters(157, seed=1)
    strange = validation._replace(label=np.full_like(validation.label, 9))
    assert logistic.run(train, strange, grid=(1.0,))["top1"] == 0.0
    dull = train._replace(pooled=np.ones_like(train.pooled))
    got = logistic.run(dull, validation._replace(pooled=np.ones_like(validation.pooled)), grid=FEW)
    most = np.bincount(train.label).argmax()
    assert got["top1"] == pytest.approx(np.mean(validation.label == most))
    assert got["mean_per_class"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("grid", ()), ("grid", (1.0, 0.0)), ("holdout", 1.0), ("seed", -1), ("iterations", 0)],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.logistic\.{key}=[^\n]*expected[^\n]*$"):
        logistic.run(clusters(20), clusters(20), **{key: value})


def test_one_train_example_is_too_few():
    with pytest.raises(ValueError, match=r"^evaluators\.logistic: 1 train example [^\n]*$"):
        logistic.run(clusters(1), clusters(20))
