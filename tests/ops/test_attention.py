"""Attention against arithmetic nobody here wrote, in every shape it is used in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.attention import IMPLEMENTATIONS, attention, attention_weights

B, N, M, H, D = 2, 5, 7, 3, 4


def inputs(seed=0, keys=M):
    rng = np.random.default_rng(seed)
    shapes = [(B, N, H, D), (B, keys, H, D), (B, keys, H, D)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def oracle(q, k, v, bias=0.0, scale=D**-0.5):
    """Float64 NumPy, one head at a time."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    bias = np.broadcast_to(bias, (len(q), q.shape[2], q.shape[1], k.shape[1]))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = np.exp(scale * q[b, :, h] @ k[b, :, h].T + bias[b, h])
            out[b, :, h] = (scores / scores.sum(1, keepdims=True)) @ v[b, :, h]
    return out


@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
@pytest.mark.parametrize("bias_shape", [None, (H, N, M), (B, 1, 1, M), (N, M), (1, H, N, 1)])
def test_attention_is_the_float64_oracle(implementation, bias_shape):
    q, k, v = inputs()
    bias = None
    if bias_shape:
        bias = np.random.default_rng(1).normal(size=bias_shape).astype(np.float32)
    want = oracle(q, k, v, 0.0 if bias is None else bias, scale=0.7)
    bias = None if bias is None else jnp.asarray(bias)
    got = attention(
        *map(jnp.asarray, (q, k, v)), bias=bias, scale=0.7, implementation=implementation
    )
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_default_scale_is_one_over_root_width(implementation):
    q, k, v = inputs()
    got = attention(*map(jnp.asarray, (q, k, v)), implementation=implementation)
    np.testing.assert_allclose(got, oracle(q, k, v), atol=2e-6)


def test_reference_and_its_gradients_are_those_of_jax_nn():
    q, k, v = map(jnp.asarray, inputs())
    target = jnp.asarray(np.random.default_rng(2).normal(size=(B, N, H, D)), jnp.float32)

    def value_and_grad(f):
        return jax.jit(jax.value_and_grad(lambda *x: (f(*x) * target).sum(), argnums=(0, 1, 2)))

    want = value_and_grad(jax.nn.dot_product_attention)(q, k, v)
    got = value_and_grad(lambda *x: attention(*x, implementation="reference"))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


@pytest.mark.parametrize("bias_shape", [None, (H, N, M), (M,)])
def test_weights_are_those_of_flax_and_give_back_the_output(bias_shape):
    q, k, v = map(jnp.asarray, inputs())
    bias = None
    if bias_shape:
        bias = jnp.asarray(np.random.default_rng(1).normal(size=bias_shape), jnp.float32)
    got = attention_weights(q, k, bias=bias)
    whole = None if bias is None else jnp.broadcast_to(bias, (B, H, N, M))
    np.testing.assert_allclose(got, nn.dot_product_attention_weights(q, k, whole), atol=1e-6)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)
    out = np.einsum("bhnm,bmhd->bnhd", got, v)
    np.testing.assert_allclose(out, attention(q, k, v, bias=bias), atol=1e-6)
    sharp = attention_weights(q.astype(jnp.bfloat16), k.astype(jnp.bfloat16), scale=100.0)
    assert sharp.dtype == jnp.float32 and sharp.max() > 0.99


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_comes_back_as_bfloat16_and_softmax_is_float32(implementation):
    # 256 + 1/8 is not a bfloat16: were the scores rounded, both keys would get the same weight.
    q = jnp.full((1, 1, 1, 1), 16.0, jnp.bfloat16)
    k = jnp.asarray([16.0, 16.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    v = jnp.asarray([1.0, 0.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    bias = jnp.asarray([0.0, 0.125], jnp.float32).reshape(1, 1, 1, 2)
    got = attention(q, k, v, bias=bias, scale=1.0, implementation=implementation)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(got).item(), 1 / (1 + np.exp(0.125)), rtol=4e-3)


def test_unknown_implementation_is_named():
    q, k, v = map(jnp.asarray, inputs())
    with pytest.raises(ValueError, match="'cuda'; expected None or one of reference, xla"):
        attention(q, k, v, implementation="cuda")
