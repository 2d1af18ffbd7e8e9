"""ResNet v1.5 (arXiv:1512.03385; the stride on the 3x3, as torchvision), padded as torchvision:
symmetric and explicit, since XLA's SAME shifts everything by a pixel at stride 2."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import hide
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, Stage, rematerialise
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.device import device

# B batch, H x W map, C channels.


def conv(features, size, stride=1, *, dtype, name):
    """x -> its convolution without bias, padded by size // 2 on every side, He fan-out normal."""
    layer = nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        name=name,
    )
    # With channels left to XLA, gradients are wrong on a 2 x 2 x 2 mesh (jax 0.10.2, CPU;
    # test_on_mesh holds the case).
    return lambda x: keep_batch_sharded(layer(x))


def _batch_norm(x, name, scale_init=nn.initializers.ones, *, train, dtype):
    """Statistics are float32 and over the global batch; running values move by a tenth."""
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        scale_init=scale_init,
        name=name,
    )
    return norm(x.astype(jnp.float32)).astype(dtype)


def _group_norm(x, name, scale_init=nn.initializers.ones, *, train, dtype):
    """32 groups (arXiv:1803.08494), in float32."""
    del train  # the same in evaluation
    norm = nn.GroupNorm(32, epsilon=1e-5, scale_init=scale_init, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


NORMS = {"batch": _batch_norm, "group": _group_norm}
STEMS = {"imagenet": 4, "small": 1}  # the stride of each


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first has the stride (arXiv:1512.03385, fig. 5 left)."""

    features: int
    stride: int
    norm: str
    zero_init: bool
    train: bool
    dtype: Any

    EXPANSION = 1

    @nn.compact
    def __call__(self, x):  # [B, H, W, C] -> [B, H / stride, W / stride, features]
        norm = partial(NORMS[self.norm], train=self.train, dtype=self.dtype)
        y = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(y, "norm1"))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = norm(y, "norm2", last_scale(self.zero_init))
        return keep_batch_sharded(nn.relu(shortcut(self, x, norm) + y))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width (arXiv:1512.03385, fig. 5 right)."""

    features: int
    stride: int
    norm: str
    zero_init: bool
    train: bool
    dtype: Any

    EXPANSION = 4

    @nn.compact
    def __call__(self, x):  # [B, H, W, C] -> [B, H / stride, W / stride, 4 features]
        norm = partial(NORMS[self.norm], train=self.train, dtype=self.dtype)
        y = conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(y, "norm1"))
        y = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(y, "norm2"))
        y = conv(4 * self.features, 1, dtype=self.dtype, name="conv3")(y)
        y = norm(y, "norm3", last_scale(self.zero_init))
        return keep_batch_sharded(nn.relu(shortcut(self, x, norm) + y))


def last_scale(zero_init):
    """Zero makes each block start as its shortcut (arXiv:1706.02677, sec. 5.1)."""
    return nn.initializers.zeros if zero_init else nn.initializers.ones


def shortcut(block, x, norm):
    """x itself, or its projection where the block changes its shape; called inside the block."""
    features = block.features * block.EXPANSION
    if block.stride == 1 and x.shape[-1] == features:
        return x
    x = conv(features, 1, block.stride, dtype=block.dtype, name="shortcut_conv")(x)
    return norm(x, "shortcut_norm")


# Block and blocks per stage (arXiv:1512.03385, table 1).
VARIANTS = {
    "18": (BasicBlock, (2, 2, 2, 2)),
    "34": (BasicBlock, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
    "152": (Bottleneck, (3, 8, 36, 3)),
}
LAYERS = ("stem", "stage_1", "stage_2", "stage_3", "stage_4")


class ResNet(nn.Module):
    """Stem, four stages, global average. The fields are the settings of `create`."""

    variant: str
    norm: str
    width: int  # channels of the stem
    stem: str
    zero_init: bool
    mask_token: bool
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        block, lengths = VARIANTS[self.variant]
        shared = {
            "norm": self.norm,
            "zero_init": self.zero_init,
            "train": train,
            "dtype": self.dtype,
        }
        first = partial(rematerialise(block, self.remat, in_loop=False), **shared)
        rest = partial(rematerialise(block, self.remat, in_loop=self.scan), **shared)
        x = hide(self, self._stem(images, train), mask)
        maps = {"stem": x}
        for index, length in enumerate(lengths):
            name, features, stride = f"stage_{index + 1}", self.width * 2**index, 2 - (index == 0)
            x = maps[name] = Stage(first, rest, features, stride, length, self.scan, name=name)(x)
        wanted = {name: maps[name] for name in layers}
        vectors = {name: map.mean(axis=(1, 2)) for name, map in wanted.items()}
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return Features(x.mean(axis=(1, 2)), x, wanted, vectors, tokens)

    def _stem(self, images, train):
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, dtype=self.dtype, name="stem_conv")(images)
        x = nn.relu(NORMS[self.norm](x, "stem_norm", train=train, dtype=self.dtype))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        return keep_batch_sharded(x)


def create(
    variant="50",
    *,
    norm="batch",
    width=1,
    stem="imagenet",
    zero_init=True,
    mask_token=False,
    scan=None,
    remat="none",
    dtype="float32",
):
    """A ResNet. Returns a `features.Encoder`; its layers are "stem", "stage_1" .. "stage_4".

    variant: depth, a name in VARIANTS. norm: "batch" or "group" (32 groups). width: multiplies
    every channel count (BiT's x3, arXiv:1912.11370). stem: "imagenet" (7x7 stride 2 and a max pool;
    stride 32 in all) or "small" (3x3 stride 1, no pool; stride 8, for images of 8 to 64 pixels).
    zero_init: start the last norm of each block at scale 0. mask_token: whether `apply` takes a
    mask, see layers.hide. scan: compile one block of each stage
    for all its equal blocks, or unroll them; parameters are stacked under "blocks" either way. None
    scans except on a CPU, where XLA leaves the gradients of convolutions inside a loop to its
    slowest code (50 times slower in benchmarks/step.py). remat: a name in stack.REMAT. dtype:
    "float32" or "bfloat16" arithmetic; parameters and statistics are float32. Raises ValueError
    for bad values.
    """
    block, lengths = lookup(VARIANTS, str(variant), "encoder.variant")
    lookup(NORMS, norm, "encoder.norm")
    stem_stride = lookup(STEMS, stem, "encoder.stem")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    scan = device()[0] != "cpu" if scan is None else scan
    channels = round(64 * width)
    if channels < 1 or channels != 64 * width or (norm == "group" and channels % 32):
        raise ValueError(
            f"encoder.width is {width}; expected a multiplier that turns 64 channels into a whole "
            f"number, and into a multiple of 32 where encoder.norm is group"
        )
    return Encoder(
        name=f"resnet {variant}" + (f"x{width}" if width != 1 else ""),
        width=channels * 8 * block.EXPANSION,
        stride=stem_stride * 8,
        layers=LAYERS,
        network=ResNet(
            str(variant), norm, channels, stem, zero_init, mask_token, scan, remat, compute
        ),
        macs=lambda image_size: _macs(block, lengths, channels, stem, image_size),
    )


def _macs(block, lengths, channels, stem, image_size):
    """Multiply-adds of one image, convolutions only."""

    def halve(side):
        return (side + 1) // 2

    side = halve(image_size) if stem == "imagenet" else image_size
    total = side**2 * (7 if stem == "imagenet" else 3) ** 2 * 3 * channels
    side = halve(side) if stem == "imagenet" else side
    before = channels
    for index, length in enumerate(lengths):
        C = channels * 2**index
        after = C * block.EXPANSION
        for layer in range(length):
            inside, side = side, (halve(side) if layer == 0 and index > 0 else side)
            if block is BasicBlock:
                total += side**2 * 9 * (before * C + C * C)
            else:
                total += inside**2 * before * C + side**2 * (9 * C * C + C * after)
            if layer == 0 and (index > 0 or before != after):
                total += side**2 * before * after
            before = after
    return total
