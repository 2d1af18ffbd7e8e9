"""Attention in float64 NumPy, from the formula: what every implementation is compared with."""

import jax
import jax.numpy as jnp
import numpy as np

# B batch, N queries, M keys, H heads, D width of one head.


def inputs(shape, bias_heads=0, segments=False, dtype=jnp.float32):
    """q, k, v and the output's gradient [B, N, H, D], bias [Hb, N, N] and segments [B, N]."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]
    bias = ids = None
    if bias_heads:
        bias = jnp.asarray(rng.normal(size=(bias_heads, shape[1], shape[1])), jnp.float32)
    if segments:
        ids = jnp.asarray(rng.integers(-1, 3, size=shape[:2]), jnp.int32)
    return (*arrays, bias, ids)


def oracle(q, k, v, grad, bias=None, segments=None, *, scale):
    """Output and gradients of q, k, v, bias (None without one).

    q, grad: [B, N, H, D]; k, v: [B, M, H, D]; bias: [Hb, N, M], Hb 1 or H, or anything that
    broadcasts to [B, H, N, M], whose gradient is then not summed; segments: [B, N].
    """
    q, k, v, grad = (np.asarray(x, np.float64) for x in (q, k, v, grad))
    scores = scale * np.einsum("bnhd,bmhd->bhnm", q, k)
    if bias is not None:
        scores = scores + np.asarray(bias, np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    if segments is not None:
        ids = np.asarray(segments)[:, None]
        weights *= (ids[..., :, None] == ids[..., None, :]) & (ids >= 0)[..., None]
    total = weights.sum(-1, keepdims=True)
    weights /= np.where(total == 0, 1, total)
    dweights = np.einsum("bnhd,bmhd->bhnm", grad, v)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    dbias = None
    if bias is not None:
        dbias = dscores
        if np.ndim(bias) == 3:
            dbias = dscores.sum(0) if len(bias) > 1 else dscores.sum((0, 1))[None]
    return (
        np.einsum("bhnm,bmhd->bnhd", weights, v),
        scale * np.einsum("bhnm,bmhd->bnhd", dscores, k),
        scale * np.einsum("bhnm,bnhd->bmhd", dscores, q),
        np.einsum("bhnm,bnhd->bmhd", weights, grad),
        dbias,
    )


def run(function, q, k, v, grad, bias, segments, promotion="strict"):
    """What `oracle` gives, of function(q, k, v, bias, segments)."""

    def out_and_gradients(q, k, v, bias, grad):
        out, pull = jax.vjp(lambda *x: function(*x, segments), q, k, v, bias)
        return out, *pull(grad)

    with jax.numpy_dtype_promotion(promotion):
        return jax.jit(out_and_gradients)(q, k, v, bias, grad)


def errors(got, want):
    """Largest difference of each, over the largest value of the truth."""
    return [
        np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        for a, b in zip(got, want, strict=True)
        if b is not None
    ]
