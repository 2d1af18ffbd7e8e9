"""Losses against float64 NumPy, optax and scikit-learn, and their gradients against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss

from vitjax.objectives.losses import (
    LOSSES,
    positive_cross_entropy,
    sigmoid_cross_entropy,
    smooth,
    softmax_cross_entropy,
)

B, C = 5, 7


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(B, C)).astype(np.float32) * 3
    return jnp.asarray(logits), jnp.asarray(rng.dirichlet(np.ones(C), size=B).astype(np.float32))


def binary64(logits, targets):
    """The binary cross-entropies [B, C] as they are written in the papers."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    targets = np.asarray(targets, np.float64)
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


def test_softmax_cross_entropy_is_that_of_optax_and_scikit_learn(drawn):
    logits, targets = drawn
    want = optax.softmax_cross_entropy(logits, targets).mean()
    np.testing.assert_allclose(softmax_cross_entropy(logits, targets), want, rtol=1e-6)
    label = np.array([3, 0, 6, 6, 1])
    want = log_loss(label, np.asarray(jax.nn.softmax(logits)), labels=np.arange(C))
    got = softmax_cross_entropy(logits, jax.nn.one_hot(label, C))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_sigmoid_cross_entropy_sums_over_classes(drawn):
    logits, targets = drawn
    want = optax.sigmoid_binary_cross_entropy(logits, targets).sum(1).mean()
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, targets), want, rtol=1e-6)
    want = binary64(logits, targets).sum(1).mean()
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, targets), want, rtol=1e-6)


def test_positive_cross_entropy_asks_only_whether_a_class_is_there(drawn):
    logits, _ = drawn
    mixed = np.zeros((B, C), np.float32)
    mixed[np.arange(B), [0, 1, 2, 3, 4]] = 0.9
    mixed[np.arange(B), [1, 5, 6, 0, 2]] = 0.1
    want = binary64(logits, mixed > 0).mean()
    np.testing.assert_allclose(positive_cross_entropy(logits, jnp.asarray(mixed)), want, rtol=1e-6)


def test_a_head_bias_of_minus_log_classes_starts_the_sigmoid_loss_small():
    targets = jax.nn.one_hot(jnp.zeros(B, jnp.int32), 1000)
    at_zero = sigmoid_cross_entropy(jnp.zeros((B, 1000)), targets)
    np.testing.assert_allclose(at_zero, 1000 * np.log(2), rtol=1e-6)
    assert sigmoid_cross_entropy(jnp.full((B, 1000), -np.log(1000.0)), targets) < 8


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences(name, drawn):
    logits, targets = drawn
    nudges = 0.05 * jnp.eye(B * C).reshape(B * C, B, C)
    loss = jax.vmap(lambda nudge: LOSSES[name](logits + nudge, targets))
    slopes = (loss(nudges) - loss(-nudges)) / 0.1
    grad = jax.grad(LOSSES[name])(logits, targets)
    np.testing.assert_allclose(slopes.reshape(B, C), grad, atol=1e-3 * np.abs(grad).max())


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_on_huge_logits_and_are_float32_on_bfloat16(name):
    targets = jax.nn.one_hot(jnp.array([0, 1]), 3)
    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    loss, grad = jax.value_and_grad(LOSSES[name])(logits, targets)
    assert np.isfinite(loss) and np.isfinite(grad).all()
    assert LOSSES[name](logits.astype(jnp.bfloat16), targets).dtype == jnp.float32


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_over_the_batch(name, drawn):
    logits, targets = drawn
    alone = [LOSSES[name](logits[i : i + 1], targets[i : i + 1]) for i in range(B)]
    np.testing.assert_allclose(LOSSES[name](logits, targets), np.mean(alone), rtol=1e-6)


def test_smoothing_keeps_the_sum_and_moves_its_amount(drawn):
    _, targets = drawn
    np.testing.assert_allclose(smooth(targets, 0.3).sum(1), 1, rtol=1e-6)
    want = optax.smooth_labels(targets, 0.3)
    np.testing.assert_allclose(smooth(targets, 0.3), want, rtol=1e-6)
    np.testing.assert_array_equal(smooth(targets, 0.0), targets)
