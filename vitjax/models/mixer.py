"""MLP-Mixer (arXiv:2105.01601): two MLPs in turn, one across the patches of each channel, one
across the channels of each patch. The first has a weight per patch, so it fixes the image size."""

import math
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import (
    MLP,
    check_counts,
    check_rates,
    drop_path,
    embed_patches,
    layer_norm,
    refuse_mask,
    require_key,
)
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, block_names, rematerialise, repeat
from vitjax.ops.batch import keep_batch_sharded

# B batch, h x w grid of patches, N = h * w tokens, D width, L depth.


class Size(NamedTuple):
    """token_mlp, channel_mlp: hidden widths of the two MLPs."""

    width: int
    depth: int
    token_mlp: int
    channel_mlp: int


# Table 1 of the paper.
SIZES = {
    "S": Size(512, 8, 256, 2048),
    "B": Size(768, 12, 384, 3072),
    "L": Size(1024, 24, 512, 4096),
    "H": Size(1280, 32, 640, 5120),
}
ACTIVATIONS = {
    "gelu": "exact, as timm and PyTorch compute it",
    "gelu_tanh": "its tanh approximation, as big_vision trained the published weights",
}


class Block(nn.Module):
    """Token mixing, then channel mixing (eq. 1)."""

    size: Size
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, N, D]. rate: of stochastic depth, a float32 scalar; None for none."""

        def add(x, branch):
            if rate is not None:
                branch = drop_path(branch, rate, self.make_rng("dropout"))
            return x + branch

        def mlp(hidden, name):
            return MLP(hidden, activation=self.activation, dtype=self.dtype, name=name)

        y = layer_norm(x, dtype=self.dtype, name="norm1").swapaxes(1, 2)  # [B, D, N]
        x = add(x, mlp(self.size.token_mlp, "token_mlp")(y).swapaxes(1, 2))
        y = layer_norm(x, dtype=self.dtype, name="norm2")
        x = add(x, mlp(self.size.channel_mlp, "channel_mlp")(y))
        return keep_batch_sharded(x)


class Mixer(nn.Module):
    """Patches, blocks, last norm, mean. The fields are the settings of `create`."""

    size: Size
    patch: int
    activation: str
    drop_path: float
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        refuse_mask("mixer", mask)
        require_key(self, train, drop_path=self.drop_path)
        x = embed_patches(images, self.patch, self.size.width, dtype=self.dtype, name="embedding")
        grid = x.shape  # [B, h, w, D]
        self._check(grid)
        x = keep_batch_sharded(x.reshape(grid[0], -1, grid[-1]))  # [B, N, D]
        x, outputs = self._blocks(x, train, collect=bool(layers))
        last_norm = nn.LayerNorm(epsilon=1e-6, name="norm")

        def norm(x):
            return last_norm(x.astype(jnp.float32)).astype(self.dtype)

        tokens = norm(x)
        names = block_names(self.size.depth)
        wanted = {name: outputs[names.index(name)] for name in layers}  # [B, N, D] each
        maps = {name: x.reshape(grid) for name, x in wanted.items()}
        vectors = {name: norm(x).mean(axis=1) for name, x in wanted.items()}
        return Features(tokens.mean(axis=1), tokens.reshape(grid), maps, vectors, tokens)

    def _check(self, grid):
        """Refuse a grid that the weights were not made for; they are made for square ones."""
        if self.is_initializing():
            return
        made = self.variables["params"]["blocks"]["token_mlp"]["up"]["kernel"].shape[-2]  # N
        side = math.isqrt(made)
        if grid[1:3] != (side, side):
            h, w, side = (n * self.patch for n in (*grid[1:3], side))
            raise ValueError(
                f"image size {h}x{w} does not fit the token mixing made for {side}x{side}: set "
                f"views.size to {side}"
            )

    def _blocks(self, x, train, collect):
        block = rematerialise(Block, self.remat, in_loop=self.scan)(
            self.size, self.activation, self.dtype, name="blocks"
        )
        rates = None
        if train and self.drop_path:
            rates = jnp.asarray(np.linspace(0.0, self.drop_path, self.size.depth), jnp.float32)
        return repeat(block, x, rates, length=self.size.depth, scan=self.scan, collect=collect)


def create(
    variant="B/16",
    *,
    activation="gelu_tanh",
    drop_path=0.0,
    scan=True,
    remat="none",
    dtype="float32",
    width=None,
    depth=None,
    token_mlp=None,
    channel_mlp=None,
):
    """An MLP-Mixer. Returns a `features.Encoder`; its layers are "block_00" and on.

    variant: a name in SIZES, a slash and the patch side in pixels, as "B/16"; width, depth,
    token_mlp and channel_mlp (hidden widths) replace the table's numbers. activation: "gelu" or
    "gelu_tanh". drop_path: stochastic depth of the last block, linear from 0 at the first; what
    stays is scaled to keep the mean (big_vision's is not). scan: compile one block for all, or
    unroll them; parameters are stacked under "blocks" either way. remat: a name in stack.REMAT.
    dtype: "float32" or "bfloat16" arithmetic; parameters are float32. Raises ValueError for bad
    values; `apply` does for any image size but the one given to `init`.
    """
    name, patch = _parse(variant)
    given = {"width": width, "depth": depth, "token_mlp": token_mlp, "channel_mlp": channel_mlp}
    size = lookup(SIZES, name, "the size in encoder.variant")
    size = size._replace(**{field: n for field, n in given.items() if n is not None})
    check_counts(size)
    check_rates(drop_path=drop_path)
    lookup(ACTIVATIONS, activation, "encoder.activation")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    return Encoder(
        name=f"mixer {variant}",
        width=size.width,
        stride=patch,
        layers=block_names(size.depth),
        network=Mixer(size, patch, activation, drop_path, scan, remat, compute),
        macs=lambda image_size: _macs(size, patch, image_size),
    )


def _parse(variant):
    match = re.fullmatch(r"([A-Za-z]+)/([1-9]\d*)", variant)
    if not match:
        raise ValueError(
            f"encoder.variant is {variant!r}; expected a size and a patch side in pixels, as B/16"
        )
    return match[1], int(match[2])


def _macs(size, patch, image_size):
    """Multiply-adds of one image: embedding and the two MLPs; norms are left out."""
    D, L, T, C = size
    N = (image_size // patch) ** 2
    return N * patch * patch * 3 * D + L * (D * 2 * N * T + N * 2 * D * C)
