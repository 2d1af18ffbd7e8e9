"""Multi-head attention as a Linen module; the arithmetic is in ops.attention."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
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


class HeadsDense(nn.Module):
    """nn.DenseGeneral into heads or out of them, down to its parameters' first values, as one flat
    product: with the heads as a dimension of their own XLA turns every activation between the
    product and the kernel of attention (v5e, benchmarks/attention_tpu.py block).

    inputs, outputs: the dimensions of the kernel that are summed over, and that come out.
    kernel_init: of the kernel as one matrix.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x):  # [B, N, *inputs] -> [B, N, *outputs]
        flat = (math.prod(self.inputs), math.prod(self.outputs))

        def init(key, shape, dtype):
            return self.kernel_init(key, flat, dtype).reshape(shape)

        kernel = self.param("kernel", init, (*self.inputs, *self.outputs), jnp.float32)
        # Without the barrier the gradient's product is given the kernel's shape back.
        kernel = jax.lax.optimization_barrier(kernel.astype(self.dtype).reshape(flat))
        y = x.astype(self.dtype).reshape(*x.shape[:2], flat[0]) @ kernel
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.outputs, jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, -1)
        return y.reshape(*x.shape[:2], *self.outputs)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, sec. 3.2.2).

    Kernels: query, key, value [D, H, D / H] and out [H, D / H, D]. biases: a name in BIASES.
    qk_norm: LayerNorm of every query and key over D / H, with norm_eps (ViT-22B,
    arXiv:2302.05442, sec. 2.1). grid: None, or the h x w patches at the end of x, whose queries and
    keys are turned by their place (ops.position.rotary_2d). implementation: see ops.attention.
    """

    heads: int
    biases: str = "all"
    qk_norm: bool = False
    norm_eps: float = 1e-6
    grid: tuple[int, int] | None = None
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x, context=None, bias=None, segments=None, weights=False):
        """x: [B, N, D] asks, context: [B, M, D] (x when None) answers; bias and segments as in
        ops.attention.

        Returns [B, N, D], or with weights=True the attention weights [B, H, N, M] instead.
        """
        width = x.shape[-1]
        split = (self.heads, width // self.heads)
        context = x if context is None else context

        def project(tokens, name):
            use_bias = name in BIASES[self.biases]
            return HeadsDense(tokens.shape[-1:], split, use_bias, self.dtype, name=name)(tokens)

        q, k = project(x, "query"), project(context, "key")  # [B, N, H, D / H]
        if self.qk_norm:
            norm = {"eps": self.norm_eps, "dtype": self.dtype}
            q, k = layer_norm(q, name="query_norm", **norm), layer_norm(k, name="key_norm", **norm)
        if self.grid is not None:
            angles = rotary_2d(*self.grid, q.shape[-1])
            q, k = rotate(q, angles), rotate(k, angles)
        given = {"bias": bias, "segments": segments}
        if weights:
            return attention_weights(q, k, **given)
        v = project(context, "value")
        y = attention(q, k, v, implementation=self.implementation, **given)
        return HeadsDense(split, (width,), dtype=self.dtype, name="out")(y)  # [B, N, D]
