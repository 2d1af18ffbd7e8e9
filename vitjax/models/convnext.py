"""ConvNeXt (arXiv:2201.03545) and ConvNeXt V2 (arXiv:2301.00808): depth-wise 7x7 convolutions and
an MLP of four times the width with an exact GELU. Patches of the stem and windows of the other
downsampling convolutions that do not fit are left out at the right and the bottom, as in the
original (and timm's, torchvision's) code."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import (
    DepthwiseConv,
    check_rates,
    hide,
    layer_norm,
    layer_scale,
    require_key,
)
from vitjax.models.layers import drop_path as drop_samples
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, rematerialise, repeat
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.device import device

# B batch, H x W map, C channels, M = 4 C hidden channels.


class Size(NamedTuple):
    """depths: blocks of each stage; dims: channels of each stage; v2: Global Response Normalization
    inside the MLP instead of LayerScale after it (arXiv:2301.00808, sec. 3.2)."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    v2: bool = False


# T to XL: arXiv:2201.03545, sec. 3. V2: arXiv:2301.00808, appendix A. atto to nano without V2 are
# timm's: the shapes of V2 with the block of the first paper.
VARIANTS = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "T": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "S": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "B": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "L": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "XL": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "V2-atto": Size((2, 2, 6, 2), (40, 80, 160, 320), v2=True),
    "V2-femto": Size((2, 2, 6, 2), (48, 96, 192, 384), v2=True),
    "V2-pico": Size((2, 2, 6, 2), (64, 128, 256, 512), v2=True),
    "V2-nano": Size((2, 2, 8, 2), (80, 160, 320, 640), v2=True),
    "V2-T": Size((3, 3, 9, 3), (96, 192, 384, 768), v2=True),
    "V2-B": Size((3, 3, 27, 3), (128, 256, 512, 1024), v2=True),
    "V2-L": Size((3, 3, 27, 3), (192, 384, 768, 1536), v2=True),
    "V2-H": Size((3, 3, 27, 3), (352, 704, 1408, 2816), v2=True),
}
LAYERS = ("stem", "stage_1", "stage_2", "stage_3", "stage_4")
LAYER_SCALE = 1e-6  # at the start (arXiv:2201.03545, table 5)
KERNEL_INIT = nn.initializers.normal(0.02)  # published as truncated, but at 100 deviations


class GlobalResponseNorm(nn.Module):
    """Channels compete by how strong they are in the whole image (arXiv:2301.00808, eq. 1-3).

    g_c = the L2 norm of channel c over all positions, n_c = g_c / (mean of g + 1e-6);
    x_c (1 + scale_c n_c) + bias_c. Statistics in float32. Starts as the identity.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, M]
        scale, bias = (
            self.param(name, nn.initializers.zeros, x.shape[-1:])[None, None, None]
            for name in ("scale", "bias")
        )
        square = jnp.square(x.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True)  # [B, 1, 1, M]
        # A channel that is zero everywhere: the root has no gradient there, and none is wanted.
        dead = square == 0
        strength = jnp.where(dead, 0.0, jnp.sqrt(jnp.where(dead, 1.0, square)))
        relative = strength / (strength.mean(axis=-1, keepdims=True) + 1e-6)
        return x * (1.0 + scale * relative).astype(self.dtype) + bias.astype(self.dtype)


class MLP(nn.Module):
    """C -> 4 C -> C at every position, an exact GELU between, in V2 then the response norm."""

    v2: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        def dense(features, name):
            return nn.Dense(features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)

        y = nn.gelu(dense(4 * x.shape[-1], "up")(x), approximate=False)  # [B, H, W, M]
        if self.v2:
            y = GlobalResponseNorm(self.dtype, name="grn")(y)
        return dense(x.shape[-1], "down")(y)


class Block(nn.Module):
    """Depth-wise 7x7, LayerNorm, MLP (arXiv:2201.03545, fig. 4; arXiv:2301.00808, fig. 5)."""

    v2: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, H, W, C]. rate: of stochastic depth, a float32 scalar; None for none."""
        y = DepthwiseConv(7, kernel_init=KERNEL_INIT, dtype=self.dtype, name="depthwise")(x)
        y = layer_norm(y, dtype=self.dtype, name="norm")
        y = MLP(self.v2, self.dtype, name="mlp")(y)
        if not self.v2:
            y = layer_scale(self, y, LAYER_SCALE, "layer_scale")
        if rate is not None:
            y = drop_samples(y, rate, self.make_rng("dropout"))
        return keep_batch_sharded(x + y)


class Stage(nn.Module):
    """Half the resolution but in the first stage, then equal blocks. `rates`: of each, or None."""

    size: Size
    index: int
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rates=None):  # [B, H, W, C'] -> [B, H // 2, W // 2, C]
        if self.index > 0:
            x = layer_norm(x, dtype=self.dtype, name="downsample_norm")
            C = self.size.dims[self.index]
            x = keep_batch_sharded(cut(x, C, 2, dtype=self.dtype, name="downsample_conv"))
        block = rematerialise(Block, self.remat, in_loop=self.scan)
        blocks = block(self.size.v2, self.dtype, name="blocks")
        length = self.size.depths[self.index]
        x, _ = repeat(blocks, x, rates, length=length, scan=self.scan)
        return x


def cut(x, features, side, *, dtype, name):
    """Project each side x side window of x; called inside a compact module."""
    window = (side, side)
    return nn.Conv(
        features, window, window, padding="VALID", kernel_init=KERNEL_INIT, dtype=dtype, name=name
    )(x)


class ConvNeXt(nn.Module):
    """Stem, four stages, mean, last norm. The fields are the settings of `create`."""

    size: Size
    patch: int
    last_norm_eps: float
    mask_token: bool
    drop_path: float
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        require_key(self, train, drop_path=self.drop_path)
        smallest = 8 * self.patch
        for side in images.shape[1:3]:
            if side < smallest:
                raise ValueError(
                    f"image size {side} is smaller than the stride {smallest} of this convnext: "
                    f"set views.size to {smallest} or more, or encoder.patch below {self.patch}"
                )
        x = cut(images, self.size.dims[0], self.patch, dtype=self.dtype, name="stem_conv")
        x = keep_batch_sharded(layer_norm(x, dtype=self.dtype, name="stem_norm"))
        x = hide(self, x, mask)
        maps = {"stem": x}
        for index, rates in enumerate(self._rates(train)):
            name = f"stage_{index + 1}"
            stage = Stage(self.size, index, self.scan, self.remat, self.dtype, name=name)
            x = maps[name] = stage(x, rates)
        norm = nn.LayerNorm(epsilon=self.last_norm_eps, name="norm")
        pooled = norm(x.astype(jnp.float32).mean(axis=(1, 2))).astype(self.dtype)
        patches = norm(x.astype(jnp.float32)).astype(self.dtype)
        wanted = {name: maps[name] for name in layers}
        vectors = {name: map.mean(axis=(1, 2)) for name, map in wanted.items()}
        tokens = patches.reshape(x.shape[0], -1, x.shape[-1])
        return Features(pooled, patches, wanted, vectors, tokens)

    def _rates(self, train):
        """Of stochastic depth for the blocks of each stage, None where there is none."""
        if not (train and self.drop_path):
            return [None] * len(self.size.depths)
        rates = np.linspace(0.0, self.drop_path, sum(self.size.depths))
        stages = np.split(rates, np.cumsum(self.size.depths)[:-1])
        return [jnp.asarray(stage, jnp.float32) for stage in stages]


def size_of(variant, depths=None, dims=None):
    """The row of VARIANTS, with depths and dims in place of its own where they are given.

    Raises ValueError unless both are four whole numbers above 0.
    """
    size = lookup(VARIANTS, variant, "encoder.variant")
    given = {"depths": depths, "dims": dims}
    for key, numbers in given.items():
        if numbers is None:
            continue
        if len(numbers) != 4 or any(not isinstance(n, int) or n < 1 for n in numbers):
            raise ValueError(f"encoder.{key}={numbers!r}: expected four whole numbers above 0")
        size = size._replace(**{key: tuple(numbers)})
    return size


def create(
    variant="T",
    *,
    depths=None,
    dims=None,
    patch=4,
    last_norm_eps=1e-6,
    mask_token=False,
    drop_path=0.0,
    scan=None,
    remat="none",
    dtype="float32",
):
    """A ConvNeXt. Returns a `features.Encoder`; its layers are "stem", "stage_1" .. "stage_4".

    variant: a name in VARIANTS; depths and dims (four numbers each) replace the table's. patch:
    side of the stem's patches in pixels; all in all the stride is 8 patches. Images have at least
    that side; at other sizes than its multiples some pixels at the right and the bottom are not
    seen. `pooled` is the last norm of the mean over the last map, `patches` the same norm at every
    position (as DINOv3 has it). last_norm_eps: of that norm (Hugging Face's files: 1e-12); the
    others have 1e-6. mask_token: whether `apply` takes a mask, see layers.hide. drop_path:
    stochastic depth of the last block, linear from 0 at the first.
    scan: compile one block of each stage for all, or unroll them; parameters are stacked under
    "blocks" either way. None scans except on a CPU (see resnet.create). remat: a name in
    stack.REMAT. dtype: "float32" or "bfloat16" arithmetic; parameters are float32. Raises
    ValueError for bad values.
    """
    size = size_of(variant, depths, dims)
    if not isinstance(patch, int) or patch < 1:
        raise ValueError(f"encoder.patch={patch!r}: expected a whole number of pixels above 0")
    if not last_norm_eps > 0:
        raise ValueError(f"encoder.last_norm_eps is {last_norm_eps}; expected a number above 0")
    check_rates(drop_path=drop_path)
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    scan = device()[0] != "cpu" if scan is None else scan
    return Encoder(
        name=f"convnext {variant}",
        width=size.dims[-1],
        stride=8 * patch,
        layers=LAYERS,
        network=ConvNeXt(size, patch, last_norm_eps, mask_token, drop_path, scan, remat, compute),
        macs=lambda image_size: _macs(size, patch, image_size),
    )


def _macs(size, patch, image_size):
    """Multiply-adds of one image: convolutions and the two layers of each MLP."""
    side = image_size // patch
    total = side**2 * patch**2 * 3 * size.dims[0]
    for index, (depth, C) in enumerate(zip(size.depths, size.dims, strict=True)):
        if index > 0:
            side //= 2
            total += side**2 * 4 * size.dims[index - 1] * C
        total += depth * side**2 * (49 * C + 8 * C**2)
    return total
