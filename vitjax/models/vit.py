"""Vision Transformer (arXiv:2010.11929), in the shape of "Better plain ViT baselines"
(arXiv:2205.01580): pre-norm, biases everywhere, GELU in its tanh approximation."""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.attention import MultiHeadAttention
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import MLP, drop_path, embed_patches, layer_norm
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, rematerialise, repeat
from vitjax.ops.attention import attention_weights
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.position import sincos_2d

# B batch, h x w grid of patches, N tokens (prefix + h * w), D width, L depth.


class Size(NamedTuple):
    width: int
    depth: int
    mlp: int
    heads: int


# Table 2 of arXiv:2106.04560; M from arXiv:2205.01580's code, So400m from arXiv:2305.13035, e from
# arXiv:2209.06794; the -opt shapes from big_vision, mu is its size for tests.
SIZES = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
}
POOLS = {"gap": "mean of the patch tokens", "cls": "a class token", "map": "attention pooling"}
POSITIONS = {"learned": "a table for one grid", "sincos": "fixed, any grid"}


class Block(nn.Module):
    """Pre-norm transformer block (arXiv:2010.11929, eq. 2-3)."""

    mlp: int
    heads: int
    dropout: float = 0.0
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, N, D]. rate: of stochastic depth, a float32 scalar; None for none."""

        def add(x, branch):
            branch = nn.Dropout(self.dropout, deterministic=not self.train)(branch)
            if rate is not None:
                branch = drop_path(branch, rate, self.make_rng("dropout"))
            return x + branch

        y = layer_norm(x, dtype=self.dtype, name="norm1")
        x = add(x, MultiHeadAttention(self.heads, self.dtype, name="attention")(y))
        y = layer_norm(x, dtype=self.dtype, name="norm2")
        x = add(x, MLP(self.mlp, self.dropout, self.train, self.dtype, name="mlp")(y))
        return keep_batch_sharded(x)


class AttentionPool(nn.Module):
    """Multi-head attention pooling by one learned query (arXiv:2106.04560, sec. 3.2)."""

    mlp: int
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens):  # [B, N, D] -> [B, D]
        shape = (1, 1, tokens.shape[-1])
        probe = self.param("probe", nn.initializers.xavier_uniform(), shape)
        probe = jnp.broadcast_to(probe.astype(self.dtype), (tokens.shape[0], *shape[1:]))
        x = MultiHeadAttention(self.heads, self.dtype, name="attention")(probe, tokens)
        y = layer_norm(x, dtype=self.dtype, name="norm")
        x = x + MLP(self.mlp, dtype=self.dtype, name="mlp")(y)
        return x[:, 0]


class ViT(nn.Module):
    """Patches, positions, blocks, last norm, pool. The fields are the settings of `create`."""

    size: Size
    patch: int
    pool: str
    positions: str
    masked: bool
    dropout: float
    drop_path: float
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=(), attend=False):
        """Features, or with attend=True the attention weights of the last block instead."""
        if train and (self.dropout or self.drop_path) and not self.has_rng("dropout"):
            raise ValueError(
                "training with encoder.dropout or encoder.drop_path above 0 needs key=, got None"
            )
        x = embed_patches(images, self.patch, self.size.width, dtype=self.dtype, name="embedding")
        grid = x.shape  # [B, h, w, D]
        x = self._hide(x, mask)
        x = x + self._position_table(grid).astype(self.dtype)[None]
        x = x.reshape(grid[0], -1, grid[-1])  # [B, h * w, D]
        if self.pool == "cls":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, grid[-1])).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (grid[0], 1, grid[-1])), x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        first = keep_batch_sharded(x)
        x, outputs = self._blocks(first, train, collect=bool(layers) or attend)
        if attend:
            return self._last_weights(outputs[-2] if self.size.depth > 1 else first)
        last_norm = nn.LayerNorm(epsilon=1e-6, name="norm")

        def norm(x):
            return last_norm(x.astype(jnp.float32)).astype(self.dtype)

        tokens = norm(x)
        prefix = tokens.shape[1] - grid[1] * grid[2]
        names = block_names(self.size.depth)
        wanted = {name: outputs[names.index(name)] for name in layers}  # [B, N, D] each
        maps = {name: x[:, prefix:].reshape(grid) for name, x in wanted.items()}
        vectors = {
            name: norm(x)[:, 0] if self.pool == "cls" else norm(x)[:, prefix:].mean(axis=1)
            for name, x in wanted.items()
        }
        patches = tokens[:, prefix:].reshape(grid)
        return Features(self._pool(tokens, patches), patches, maps, vectors, tokens)

    def _hide(self, x, mask):
        """Put the mask token where mask is True, before positions are added (arXiv:2106.08254)."""
        if not self.masked:
            if mask is not None:
                raise ValueError("mask= needs a mask token: set encoder.mask_token to True")
            return x
        token = self.param("mask_token", nn.initializers.normal(0.02), (x.shape[-1],))
        if mask is None:
            return x
        return jnp.where(mask[..., None], token.astype(self.dtype)[None, None, None], x)

    def _position_table(self, grid):
        _, h, w, width = grid
        if self.positions == "sincos":
            return sincos_2d(h, w, width)
        if self.has_variable("params", "position_embedding"):
            made = self.get_variable("params", "position_embedding").shape
            if made[:2] != (h, w):
                p = self.patch
                raise ValueError(
                    f"image size {h * p}x{w * p} does not fit the learned positions made for "
                    f"{made[0] * p}x{made[1] * p}: set views.size to that, or encoder.positions "
                    f"to sincos"
                )
        init = nn.initializers.normal(width**-0.5)
        return self.param("position_embedding", init, (h, w, width))

    def _blocks(self, x, train, collect):
        size = self.size
        block = rematerialise(Block, self.remat, in_loop=self.scan)(
            size.mlp, size.heads, self.dropout, train, self.dtype, name="blocks"
        )
        rates = None
        if train and self.drop_path:  # from 0 at the first block (arXiv:2012.12877, sec. 6)
            rates = jnp.asarray(np.linspace(0.0, self.drop_path, size.depth), jnp.float32)
        return repeat(block, x, rates, length=size.depth, scan=self.scan, collect=collect)

    def _last_weights(self, x):
        """x: [B, N, D], what enters the last block -> its attention weights, [B, H, N, N] float32.

        The kernels of attention never hold them: queries and keys are made again, in float32.
        """
        last = jax.tree.map(lambda leaf: leaf[-1], self.variables["params"]["blocks"])
        norm = nn.LayerNorm(epsilon=1e-6)
        y = norm.apply({"params": last["norm1"]}, x.astype(jnp.float32))
        q, k = (
            jnp.einsum("bnd,dhe->bnhe", y, p["kernel"]) + p["bias"][None, None]
            for p in (last["attention"]["query"], last["attention"]["key"])
        )
        return attention_weights(q, k)

    def _pool(self, tokens, patches):
        if self.pool == "gap":
            return patches.mean(axis=(1, 2))
        if self.pool == "cls":
            return tokens[:, 0]
        size = self.size
        return AttentionPool(size.mlp, size.heads, self.dtype, name="attention_pool")(tokens)


def create(
    variant="S/16",
    *,
    pool="gap",
    positions="learned",
    mask_token=False,
    dropout=0.0,
    drop_path=0.0,
    scan=True,
    remat="none",
    dtype="float32",
    width=None,
    depth=None,
    mlp=None,
    heads=None,
):
    """A Vision Transformer. Returns a `features.Encoder`.

    variant: a name in SIZES, a slash and the patch side in pixels, as "B/16"; width, depth, mlp and
    heads replace the table's numbers. pool: "gap", "cls" (a token prepended after positions) or
    "map". positions: "learned" (for the image size given to init) or "sincos". mask_token: whether
    `apply` takes a mask. dropout: after positions, inside the MLP and after each branch. drop_path:
    stochastic depth of the last block, linear from 0 at the first. scan: compile one block for all,
    or unroll them; parameters are stacked under "blocks" either way. remat: a name in stack.REMAT.
    dtype: "float32" or "bfloat16" arithmetic; parameters are float32. Initialisation is
    big_vision's. Raises ValueError for bad values.
    """
    name, patch = _parse(variant)
    given = {"width": width, "depth": depth, "mlp": mlp, "heads": heads}
    size = lookup(SIZES, name, "the size in encoder.variant")
    size = size._replace(**{field: n for field, n in given.items() if n is not None})
    for field, n in size._asdict().items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"encoder.{field}={n!r}: expected a whole number above 0")
    if size.width % size.heads:
        raise ValueError(
            f"encoder.width {size.width} is not a multiple of encoder.heads {size.heads}"
        )
    for key, value in {"dropout": dropout, "drop_path": drop_path}.items():
        if not 0 <= value < 1:
            raise ValueError(f"encoder.{key} is {value}; expected a rate from 0 up to below 1")
    lookup(POOLS, pool, "encoder.pool")
    lookup(POSITIONS, positions, "encoder.positions")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    network = ViT(
        size, patch, pool, positions, mask_token, dropout, drop_path, scan, remat, compute
    )
    return Encoder(
        name=f"vit {variant}",
        width=size.width,
        stride=patch,
        layers=block_names(size.depth),
        network=network,
        macs=lambda image_size: _macs(size, patch, pool, image_size),
        prefix=int(pool == "cls"),
        attention=lambda variables, images: network.apply(
            {"params": variables["params"]}, images, attend=True
        ),
    )


def block_names(depth):
    return tuple(f"block_{layer:02d}" for layer in range(depth))


def _parse(variant):
    match = re.fullmatch(r"([A-Za-z0-9-]+)/([1-9]\d*)", variant)
    if not match:
        raise ValueError(
            f"encoder.variant is {variant!r}; expected a size and a patch side in pixels, as S/16"
        )
    return match[1], int(match[2])


def _macs(size, patch, pool, image_size):
    """Multiply-adds of one image: embedding, projections, MLP, attention; norms are left out."""
    D, L, M, _ = size
    patches = (image_size // patch) ** 2
    N = patches + (pool == "cls")
    block = N * (4 * D * D + 2 * D * M) + 2 * N * N * D
    pooling = 2 * N * D * D + 2 * N * D + 2 * D * D + 2 * D * M if pool == "map" else 0
    return patches * patch * patch * 3 * D + L * block + pooling
