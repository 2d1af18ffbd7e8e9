"""Classification heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import heads

D, C, HIDDEN = 6, 5, 4
POOLED = np.random.default_rng(0).normal(size=(3, D)).astype(np.float32)


@pytest.mark.parametrize("hidden", [0, HIDDEN])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_logits_are_the_bias_and_float32(hidden, dtype):
    head = heads.classifier(D, C, hidden, bias=-2.5, dtype=dtype)
    params = head.init(jax.random.key(0))
    logits = head.apply(params, jnp.asarray(POOLED))
    assert logits.shape == (3, C) and logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, -2.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_logits_are_linear_in_a_tanh_layer():
    head = heads.classifier(D, C, HIDDEN)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        head.init(jax.random.key(0)),
    )
    a, b = params["pre_logits"], params["logits"]
    want = np.tanh(POOLED @ a["kernel"] + a["bias"]) @ b["kernel"] + b["bias"]
    np.testing.assert_allclose(head.apply(params, jnp.asarray(POOLED)), want, atol=1e-5)


def test_bfloat16_features_are_taken_by_a_float32_head():
    head = heads.classifier(D, C)
    logits = head.apply(head.init(jax.random.key(0)), jnp.asarray(POOLED, jnp.bfloat16))
    assert logits.dtype == jnp.float32
