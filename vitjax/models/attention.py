"""Multi-head attention as a Linen module; the arithmetic is in ops.attention."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.models.layers import layer_norm
from vitjax.ops.attention import attention, attention_weights
from vitjax.ops.position import rotary_2d, rotate

# B batch, N tokens, M context tokens, D width, H heads.

# Which of the three projections in have a bias; the one out always has (DINOv3 leaves out the
# key's: it adds the same number to all scores of a query).
BIASES = {
    "all": ("query", "key", "value"),
    "query_value": ("query", "value"),
    "none": (),
}


class MultiHeadAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, sec. 3.2.2).

    Kernels: query, key, value [D, H, D / H] and out [H, D / H, D]. biases: a name in BIASES.
    qk_norm: LayerNorm of every query and key over D / H, with norm_eps (ViT-22B,
    arXiv:2302.05442, sec. 2.1). grid: None, or the h x w patches at the end of x, whose queries and
    keys are turned by their place (ops.position.rotary_2d).
    """

    heads: int
    biases: str = "all"
    qk_norm: bool = False
    norm_eps: float = 1e-6
    grid: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, context=None, bias=None, weights=False):
        """x: [B, N, D] asks, context: [B, M, D] (x when None) answers; bias as in ops.attention.

        Returns [B, N, D], or with weights=True the attention weights [B, H, N, M] instead.
        """
        width = x.shape[-1]
        context = x if context is None else context

        def dense(features, axis, name, use_bias=True):
            return nn.DenseGeneral(
                features,
                axis=axis,
                use_bias=use_bias,
                kernel_init=nn.initializers.xavier_uniform(),
                dtype=self.dtype,
                name=name,
            )

        def project(tokens, name):
            split = (self.heads, width // self.heads)
            return dense(split, -1, name, name in BIASES[self.biases])(tokens)

        q, k = project(x, "query"), project(context, "key")  # [B, N, H, D / H]
        if self.qk_norm:
            norm = {"eps": self.norm_eps, "dtype": self.dtype}
            q, k = layer_norm(q, name="query_norm", **norm), layer_norm(k, name="key_norm", **norm)
        if self.grid is not None:
            angles = rotary_2d(*self.grid, q.shape[-1])
            q, k = rotate(q, angles), rotate(k, angles)
        if weights:
            return attention_weights(q, k, bias=bias)
        v = project(context, "value")
        return dense(width, (-2, -1), "out")(attention(q, k, v, bias=bias))  # [B, N, D]
