"""The one door to attention: a reference in plain jnp, and the choice of kernel."""

import jax
import jax.numpy as jnp

# B batch, N queries, M keys (M = N in self-attention), H heads, D width of one head.


def attention(q, k, v, *, bias=None, scale=None, implementation=None):
    """softmax(scale * q k^T + bias) v, per head (arXiv:1706.03762, eq. 1).

    q: [B, N, H, D]; k, v: [B, M, H, D]. bias: broadcastable to [B, H, N, M], added to the scaled
    scores. scale: D ** -0.5 when None. implementation: a name in IMPLEMENTATIONS, or None to let
    `choose` pick one. Scores and softmax are float32; returns [B, N, H, D] in the dtype of q.
    Raises ValueError for an unknown implementation.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    if bias is not None:
        bias = _four_dims(bias)
    return choose(implementation)(q, k, v, bias, scale)


def choose(implementation):
    """The function behind a name; None takes the reference, which runs everywhere."""
    name = "reference" if implementation is None else implementation
    if name not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"attention implementation is {name!r}; expected None or one of {known}")
    return IMPLEMENTATIONS[name]


def attention_weights(q, k, *, scale=None, bias=None):
    """softmax(scale * q k^T + bias): how much of each value every query takes.

    q: [B, N, H, D]; k: [B, M, H, D]; bias and scale as in `attention`. Returns [B, H, N, M]
    float32, rows sum to 1. The whole matrix is held: for looking at, and for the reference.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + _four_dims(bias)
    return jax.nn.softmax(scores, axis=-1)


def _four_dims(bias):
    return bias.astype(jnp.float32).reshape((1,) * (4 - bias.ndim) + bias.shape)


def _reference(q, k, v, bias, scale):
    weights = attention_weights(q, k, scale=scale, bias=bias).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v).astype(q.dtype)


def _xla(q, k, v, bias, scale):
    # Written for standard promotion: under strict its bfloat16 form does not trace (and still has
    # no gradient, whose rule runs outside this block).
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(q, k, v, bias, scale=scale, implementation="xla")


IMPLEMENTATIONS = {"reference": _reference, "xla": _xla}
