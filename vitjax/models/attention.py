"""Multi-head attention as a Linen module; the arithmetic is in ops.attention."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.ops.attention import attention

# B batch, N tokens, M context tokens, D width, H heads.


class MultiHeadAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, sec. 3.2.2), biases everywhere.

    Kernels: query, key, value [D, H, D / H] and out [H, D / H, D].
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, context=None, bias=None):
        """x: [B, N, D] asks, context: [B, M, D] (x when None) answers; bias as in ops.attention."""
        width = x.shape[-1]
        context = x if context is None else context

        def dense(features, axis, name):
            return nn.DenseGeneral(
                features,
                axis=axis,
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=name,
            )

        split = (self.heads, width // self.heads)
        q = dense(split, -1, "query")(x)  # [B, N, H, D / H]
        k = dense(split, -1, "key")(context)  # [B, M, H, D / H]
        v = dense(split, -1, "value")(context)
        return dense(width, (-2, -1), "out")(attention(q, k, v, bias=bias))  # [B, N, D]
