"""Small layers that several encoders share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# B batch, N tokens, D width, M hidden width.


class MLP(nn.Module):
    """Two layers with a GELU (its tanh approximation, as big_vision) between (arXiv:2010.11929)."""

    hidden: int
    dropout: float = 0.0
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):  # [B, N, D]
        def dense(features, name):
            return nn.Dense(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(1e-6),
                dtype=self.dtype,
                name=name,
            )

        y = nn.gelu(dense(self.hidden, "up")(x), approximate=True)  # [B, N, M]
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        return dense(x.shape[-1], "down")(y)


def layer_norm(x, *, dtype, name):
    """LayerNorm with eps 1e-6, in float32; returns dtype. Called inside a compact module."""
    return nn.LayerNorm(epsilon=1e-6, name=name)(x.astype(jnp.float32)).astype(dtype)


def embed_patches(images, patch, width, *, dtype, name):
    """Cut images into patches and project each one: a convolution whose stride is its size.

    Called inside a compact module. images: [B, H, W, 3]; returns [B, H / patch, W / patch, width].
    Raises ValueError unless both sides are multiples of `patch` (pixels).
    """
    for side in images.shape[1:3]:
        below = side // patch * patch
        if side == 0 or below != side:
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise ValueError(
                f"image size {side} is not a multiple of the patch size {patch}: set views.size to "
                f"{nearest}, or change the patch in encoder.variant"
            )
    window = (patch, patch)
    return nn.Conv(width, window, window, padding="VALID", dtype=dtype, name=name)(images)


def drop_path(x, rate, key):
    """Stochastic depth (arXiv:1603.09382): drop whole samples of a residual branch.

    x: [B, ...]. rate: chance that a sample becomes zero, a float32 scalar (may be traced), below 1.
    Survivors are divided by 1 - rate, so the mean is kept.
    """
    keep = jnp.float32(1.0) - rate
    alive = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(alive, x / keep.astype(x.dtype), 0.0)
