"""Heads on prototypes: sizes as published, unit lengths, and scales that may be learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models.projection import contrastive_head, prototype_head

n, D, b, K = 5, 6, 4, 7


def head(**settings):
    return prototype_head(D, K, **{"bottleneck": b, "hidden": 8, "dtype": "float32"} | settings)


@pytest.mark.parametrize(
    ("width", "prototypes", "bottleneck", "want"),
    [
        (384, 65_536, 256, 22_352_128),
        (768, 65_536, 256, 23_138_560),
        (1024, 65_536, 256, 23_662_848),
        (1024, 131_072, 384, 57_545_088),
    ],
)
def test_the_head_of_dinov2_has_its_published_size(width, prototypes, bottleneck, want):
    made = prototype_head(width, prototypes, bottleneck=bottleneck, dtype="float32")
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    # The reference counts [K, b] and one scale per prototype.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == want


@pytest.mark.parametrize("last_layer", ["scaled", "unit", "plain"])
def test_logits_are_products_with_a_unit_vector(last_layer):
    made = head(last_layer=last_layer)
    params = made.init(jax.random.key(0))
    assert ("scale" in params["prototypes"]) == (last_layer == "scaled")
    x = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)

    def gelu(x):
        from scipy.special import erf

        return x * 0.5 * (1 + erf(x / np.sqrt(2)))

    z = x.astype(np.float64)
    for name in ("hidden_0", "hidden_1", "bottleneck"):
        z = z @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"])
        z = gelu(z) if name != "bottleneck" else z / np.linalg.norm(z, axis=1, keepdims=True)
    w = np.asarray(params["prototypes"]["kernel"], np.float64)
    if last_layer != "plain":
        w = w / np.linalg.norm(w, axis=0)
    got = made.apply(params, jnp.asarray(x))
    np.testing.assert_allclose(got, z @ w, rtol=1e-4, atol=1e-6)
    if last_layer == "scaled":
        params["prototypes"] |= {"scale": jnp.arange(K, dtype=jnp.float32)}
        got = made.apply(params, jnp.asarray(x))
        np.testing.assert_allclose(got, z @ w * np.arange(K), rtol=1e-4, atol=1e-6)


def test_logits_are_float32_whatever_the_arithmetic():
    made = head(dtype="bfloat16")
    logits = made.apply(made.init(jax.random.key(0)), jnp.ones((n, D), jnp.bfloat16))
    assert logits.dtype == jnp.float32 and logits.shape == (n, K)


def test_a_contrastive_row_depends_on_itself_alone():
    made = contrastive_head(D, features=3, hidden=8, dtype="float32")
    params = made.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (n, D))
    alone = [made.apply(params, x[i : i + 1])[0] for i in range(n)]
    np.testing.assert_allclose(made.apply(params, x), np.stack(alone), rtol=1e-4, atol=1e-6)
