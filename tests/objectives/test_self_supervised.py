"""Losses without labels against float64 NumPy written from the formulas, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.objectives.assignment import Centre, centred, sinkhorn
from vitjax.objectives.self_supervised import (
    contrastive,
    dino,
    gram,
    ibot,
    koleo,
    masked_pixels,
    nearest_distances,
    normalised_patches,
)

B, G, L, K, N, D = 3, 2, 4, 7, 5, 6


def drawn(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def targets(*shape, seed=1):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]).astype("f4")


def cross_entropy64(p, s, temperature):
    s = s.astype(np.float64) / temperature
    return -np.sum(p * (s - np.log(np.exp(s).sum(-1, keepdims=True))), axis=-1)


def dino64(s, p, temperature=0.1, local_weight=1.0):
    """Every pair spelt out (arXiv:2304.07193's code: over 2 L + 2)."""
    total = 0.0
    for g in range(G):
        for v in range(s.shape[1]):
            if v != g:
                weight = 1.0 if v < G else local_weight
                total += weight * cross_entropy64(p[:, g], s[:, v], temperature).mean()
    return total / (2 * (s.shape[1] - G) + 2)


def koleo64(x):
    x = x.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(x[:, None] - x[None], axis=-1) + np.diag(np.full(len(x), np.inf))
    return -np.mean(np.log(distance.min(axis=1)))


def gram64(x, y):
    def cosines(z):
        z = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=-1, keepdims=True)
        return z @ z.swapaxes(1, 2)

    return np.mean((cosines(x) - cosines(y)) ** 2)


def contrastive64(x, temperature):
    x = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    total = 0.0
    for b in range(len(x)):
        for view in range(2):
            own, other = x[b, view], x[b, 1 - view]
            rest = [
                np.exp(own @ x[c, w] / temperature)
                for c in range(len(x))
                for w in range(2)
                if (c, w) != (b, view)
            ]
            total -= own @ other / temperature - np.log(np.sum(rest))
    return total / (2 * len(x))


CASES = {
    "dino": (
        lambda s: dino(s, jnp.asarray(targets(B, G, K))),
        lambda s: dino64(s, targets(B, G, K)),
        drawn(B, G + L, K),
    ),
    "dino, locals at half": (
        lambda s: dino(s, jnp.asarray(targets(B, G, K)), 0.3, 0.5),
        lambda s: dino64(s, targets(B, G, K), 0.3, 0.5),
        drawn(B, G + L, K),
    ),
    "ibot": (
        lambda s: ibot(s, jnp.asarray(targets(N, K)), jnp.asarray(targets(1, N)[0]), 0.2),
        lambda s: np.sum(targets(1, N)[0] * cross_entropy64(targets(N, K), s, 0.2)),
        drawn(N, K),
    ),
    "koleo": (koleo, koleo64, drawn(B + 2, D)),
    "gram": (
        lambda x: gram(x, jnp.asarray(drawn(B, N, D + 1, seed=2))),
        lambda x: gram64(x, drawn(B, N, D + 1, seed=2)),
        drawn(B, N, D),
    ),
    "contrastive": (
        lambda x: contrastive(x, 0.4),
        lambda x: contrastive64(x, 0.4),
        drawn(B, 2, D),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_formula_and_its_gradient_the_slope(name):
    ours, oracle, x = CASES[name]
    value, grad = jax.jit(jax.value_and_grad(ours))(jnp.asarray(x))
    np.testing.assert_allclose(value, oracle(x), rtol=2e-5)
    step, slopes = 1e-5, np.zeros(x.size)
    for i in range(x.size):
        nudge = np.zeros(x.size)
        nudge[i] = step
        nudge = nudge.reshape(x.shape)
        slopes[i] = (oracle(x.astype("f8") + nudge) - oracle(x.astype("f8") - nudge)) / (2 * step)
    np.testing.assert_allclose(grad.reshape(-1), slopes, atol=2e-4 * np.abs(slopes).max())


def test_without_local_crops_dino_is_still_a_mean():
    s, p = drawn(B, G, K), targets(B, G, K)
    pairs = [cross_entropy64(p[:, g], s[:, 1 - g], 0.1).mean() for g in range(G)]
    np.testing.assert_allclose(dino(jnp.asarray(s), jnp.asarray(p)), np.mean(pairs), rtol=1e-5)


def test_equal_features_have_a_finite_koleo_and_gradient():
    value, grad = jax.value_and_grad(koleo)(jnp.ones((B, D)))
    assert np.isfinite(value) and value > 10 and np.isfinite(grad).all()


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    x = drawn(9, D)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    want = NearestNeighbors(n_neighbors=2).fit(x).kneighbors(x)[0][:, 1]
    np.testing.assert_allclose(nearest_distances(jnp.asarray(x)), want, atol=1e-5)


def test_masked_pixels_counts_hidden_patches_alone():
    predicted, target = drawn(B, N, D), drawn(B, N, D, seed=3)
    mask = np.random.default_rng(4).random((B, N)) < 0.5
    want = ((predicted.astype("f8") - target) ** 2).mean(-1)[mask].mean()
    got = masked_pixels(jnp.asarray(predicted), jnp.asarray(target), jnp.asarray(mask))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    want = (target - target.mean(-1, keepdims=True)) / np.sqrt(
        target.var(-1, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(normalised_patches(jnp.asarray(target)), want, atol=1e-5)


# Targets.


def sinkhorn64(t, temperature, steps=3):
    """As published, in the probability domain; after one shift, which the first sum takes out."""
    q = np.exp(t.astype(np.longdouble) / temperature - (t.max() / np.longdouble(temperature))).T
    K, n = q.shape
    q = q / q.sum()
    for _ in range(steps):
        q = q / q.sum(axis=1, keepdims=True) / K
        q = q / q.sum(axis=0, keepdims=True) / n
    return (q * n).T


@pytest.mark.parametrize("samples", [K + 4, K - 4])
def test_sinkhorn_is_the_published_loop(samples):
    t = drawn(samples, K)
    got = jax.jit(sinkhorn)(jnp.asarray(t), 0.3)
    np.testing.assert_allclose(got, sinkhorn64(t, 0.3), rtol=1e-4, atol=1e-7)
    even = sinkhorn(jnp.asarray(t), 0.3, steps=60)
    np.testing.assert_allclose(even.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(even.sum(axis=0), samples / K, rtol=1e-3)


def test_sinkhorn_at_logits_that_overflow_float32():
    t = drawn(11, K, scale=20.0)
    assert np.isinf(np.exp(t / np.float32(0.04))).any()
    got = sinkhorn(jnp.asarray(t), 0.04)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(got, sinkhorn64(t, 0.04), atol=2e-4)


def test_centering_takes_the_mean_of_earlier_updates_whatever_the_micro_batches():
    t, mean = drawn(8, K), drawn(K, seed=5)
    z = (t.astype("f8") - mean) / 0.5
    want = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        centred(jnp.asarray(t), jnp.asarray(mean), 0.5), want, rtol=1e-4, atol=1e-7
    )
    centre = Centre(0.9)
    start = centre.start(K) | {"mean": jnp.asarray(mean)}
    whole = centre.moved(centre.seen(start, jnp.asarray(t)))
    parts = start
    for rows in np.split(t, 4):
        parts = centre.seen(parts, jnp.asarray(rows))
        np.testing.assert_array_equal(parts["mean"], mean)  # in force from the next update
    parts = centre.moved(parts)
    np.testing.assert_allclose(whole["mean"], 0.9 * mean + 0.1 * t.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(parts["mean"], whole["mean"], rtol=1e-5)
    assert not np.any(parts["sum"]) and not parts["count"]


def test_targets_have_no_gradient():
    def through(t):
        balanced = sinkhorn(t, 0.3)
        return jnp.sum(jnp.square(balanced)) + jnp.sum(jnp.square(centred(t, jnp.zeros(K), 0.3)))

    assert not np.any(jax.grad(through)(jnp.asarray(drawn(B, K))))
