"""Accuracy of logits against scikit-learn, and the evaluators' table."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score

from vitjax import evaluators
from vitjax.evaluators import Frozen, accuracy

N, C = 40, 7


def frozen(logits, label):
    label = np.asarray(label, np.int32)
    return Frozen(label, np.zeros((len(label), 2), np.float32), np.asarray(logits, np.float32))


def test_accuracy_and_cross_entropy_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(N, C)) * 4, rng.integers(0, C, N)
    got = accuracy.run(None, frozen(logits, label))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = np.arange(C)
    assert got["top1"] == pytest.approx(top_k_accuracy_score(label, p, k=1, labels=classes))
    assert got["top5"] == pytest.approx(top_k_accuracy_score(label, p, k=5, labels=classes))
    assert got["cross_entropy"] == pytest.approx(log_loss(label, p, labels=classes), rel=1e-5)
    assert "top5" not in accuracy.run(None, frozen(logits[:, :5], label % 5))


def test_a_constant_classifier_gets_its_class_and_a_broken_one_nothing():
    label = np.arange(N) % C
    same = accuracy.run(None, frozen(np.ones((N, C)), label))
    assert same["top1"] == np.mean(label == 0)
    assert same["top5"] == np.mean(label < 5)
    assert same["cross_entropy"] == pytest.approx(np.log(C))
    broken = accuracy.run(None, frozen(np.full((N, C), np.nan), label))
    assert broken["top1"] == broken["top5"] == 0


def test_huge_logits_keep_the_cross_entropy_finite():
    got = accuracy.run(None, frozen([[1e4, -1e4], [1e4, -1e4]], [0, 1]))
    assert got["cross_entropy"] == pytest.approx(1e4)


def test_missing_logits_and_foreign_labels_are_refused():
    features = frozen(np.zeros((3, 2)), [0, 1, 0])
    with pytest.raises(ValueError, match=r"^evaluators\.accuracy: this objective[^\n]*$"):
        accuracy.run(None, features._replace(logits=None))
    with pytest.raises(ValueError, match=r"^evaluators\.accuracy: label 2, [^\n]*2 classes[^\n]*$"):
        accuracy.run(None, frozen(np.zeros((3, 2)), [0, 1, 2]))


def test_a_protocol_is_its_settings_however_they_are_written():
    same = evaluators.protocol("knn", {"k": (10, 20, 100, 200)}, ("train", "test"))
    assert evaluators.protocol("knn", {"k": [10, 20, 100, 200]}, ["train", "test"]) == same
    assert evaluators.protocol("knn", {"temperature": 0.07}, ("train", "test")) == same
    others = [
        evaluators.protocol("knn", {"k": (20,)}, ("train", "test")),
        evaluators.protocol("knn", {}, ("train[:10%]", "test")),
        evaluators.protocol("linear", {}, ("train", "test")),
    ]
    assert len({same, *others}) == 4
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in (same, *others))


def test_a_protocol_is_the_same_in_another_process():
    code = "from vitjax import evaluators; print(evaluators.protocol('linear', {'seed': 3}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == evaluators.protocol("linear", {"seed": 3})


def test_unknown_evaluators_and_settings_are_refused():
    with pytest.raises(TypeError, match="temprature"):
        evaluators.protocol("knn", {"temprature": 0.1})
