"""The decoder of a masked autoencoder (arXiv:2111.06377, sec. 3): from what was seen to pixels."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.models.precision import DTYPES
from vitjax.models.stack import repeat
from vitjax.models.transformer import Block, Form
from vitjax.ops.device import device
from vitjax.ops.position import sincos_2d

# B batch, n kept and N = h * w patches, D width of the decoder, P pixels of a patch.


class PixelDecoder(nn.Module):
    """Linear, mask tokens where nothing was seen, fixed positions, blocks, norm, linear."""

    width: int
    depth: int
    heads: int
    pixels: int
    grid: tuple[int, int]
    scan: bool
    dtype: Any

    @nn.compact
    def __call__(self, tokens, kept):
        """tokens: [B, prefix + n, De] of the encoder. kept: int32 [B, n], where the n belong; None:
        all N in order. Returns float32 [B, N, P]."""
        h, w = self.grid
        x = nn.Dense(self.width, dtype=self.dtype, name="embedding")(tokens.astype(self.dtype))
        seen = h * w if kept is None else kept.shape[1]
        prefix = x.shape[1] - seen
        before, patches = x[:, :prefix], x[:, prefix:]
        if kept is not None:
            token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
            whole = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], h * w, self.width))
            patches = whole.at[jnp.arange(x.shape[0])[:, None], kept].set(patches)
        place = sincos_2d(h, w, self.width).reshape(1, h * w, self.width).astype(x.dtype)
        x = jnp.concatenate([before, patches + place], axis=1)
        form = Form(4 * self.width, self.heads, "gelu", "all", False, 1e-6, None, self.dtype, None)
        block = Block(form, name="blocks")
        x, _ = repeat(block, x, length=self.depth, scan=self.scan)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x[:, prefix:].astype(jnp.float32))
        last = nn.Dense(self.pixels, kernel_init=nn.initializers.xavier_uniform(), name="pixels")
        return last(x)


@dataclass(frozen=True)
class Decoder:
    """init(key) -> params; apply(params, tokens, kept) -> see PixelDecoder."""

    network: PixelDecoder
    width: int

    def init(self, key):
        h, w = self.network.grid
        tokens = jnp.zeros((1, 1 + h * w, self.width), jnp.float32)
        kept = jnp.arange(h * w, dtype=jnp.int32)[None]
        return self.network.init(key, tokens, kept)["params"]

    def apply(self, params, tokens, kept):
        return self.network.apply({"params": params}, tokens, kept)


def pixel_decoder(
    encoder_width, grid, pixels, *, width=512, depth=8, heads=16, scan=True, dtype
) -> Decoder:
    """A decoder of an encoder's tokens into `pixels` numbers for each patch of the grid. scan:
    compile one block for all. dtype: name of the arithmetic's type. Raises ValueError."""
    for key, n in {"width": width, "depth": depth, "heads": heads}.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"objective.decoder_{key}={n!r}: expected a whole number above 0")
    if width % heads:
        raise ValueError(
            f"objective.decoder_width={width} is not a multiple of objective.decoder_heads={heads}"
        )
    compute = lookup(DTYPES, dtype, "dtype")
    scan = scan and device()[0] != "cpu"
    return Decoder(PixelDecoder(width, depth, heads, pixels, grid, scan, compute), encoder_width)
