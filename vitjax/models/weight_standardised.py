"""Convolutions with standardised kernels (arXiv:1903.10520), and what is made of them for BiT and
for the stem of the hybrid transformers: units of ResNet V1, stages, multiply-adds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.models.layers import drop_path
from vitjax.models.stack import Stage, rematerialise
from vitjax.ops.batch import keep_batch_sharded

# B batch, H x W map, C channels, I inputs, O outputs.


def over_root(kernel):
    """(w - mean) / sqrt(variance + 1e-10) of each output, as the published BiT weights were trained
    (arXiv:1912.11370); timm has 1e-8 there, for hybrids too. kernel: [kh, kw, I, O]."""
    axes = (0, 1, 2)
    centred = kernel - kernel.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axes, keepdims=True) + jnp.float32(1e-10))


def over_deviation(kernel):
    """(w - mean) / (standard deviation + 1e-5) of each output, as in the hybrids of
    arXiv:2010.11929 and in big_vision's V1. kernel: [kh, kw, I, O]."""
    axes = (0, 1, 2)
    centred = kernel - kernel.mean(axes, keepdims=True)
    return centred / (kernel.std(axes, keepdims=True) + jnp.float32(1e-5))


# Weights made with one give visibly other features with the other: 1e-5 is 1/2000 of the deviation
# of a 3x3 kernel of 256 channels.
STANDARDISATIONS = {"deviation": over_deviation, "variance": over_root}


class StandardisedConv(nn.Module):
    """A convolution without bias, by its kernel standardised in float32.

    standardise: over_root or over_deviation. padding: "SAME", or pixels on every side.
    """

    features: int
    size: int
    stride: int
    standardise: Callable
    padding: str | int
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, C] -> [B, H / stride, W / stride, features]
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.standardise(kernel).astype(self.dtype),
            (self.stride, self.stride),
            self.padding if self.padding == "SAME" else [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        # See resnet.conv.
        return keep_batch_sharded(y)


def group_norm(x, name, *, epsilon, dtype, scale_init=nn.initializers.ones):
    """32 groups (arXiv:1803.08494), in float32, the variance from centred values."""
    norm = nn.GroupNorm(
        32, epsilon=epsilon, use_fast_variance=False, scale_init=scale_init, name=name
    )
    return norm(x.astype(jnp.float32)).astype(dtype)


def _conv(features, size, stride=1, *, standardise, dtype, name):
    rule = STANDARDISATIONS[standardise]
    return StandardisedConv(features, size, stride, rule, "SAME", dtype, name=name)


def add(x, branch, rate, key):
    """x + branch, whose samples stochastic depth drops at `rate`. key() -> a random key."""
    return x + (branch if rate is None else drop_path(branch, rate, key()))


class PostactUnit(nn.Module):
    """Bottleneck of ResNet V1 (arXiv:1512.03385, fig. 5 right), the stride on its 3x3; each
    convolution is followed by its norm, the sum by a ReLU. The last scale starts at zero."""

    features: int
    stride: int
    dtype: Any
    standardise: str = "deviation"

    @nn.compact
    def __call__(self, x, rate=None):  # [B, H, W, C] -> [B, H / stride, W / stride, 4 features]
        conv = partial(_conv, standardise=self.standardise, dtype=self.dtype)
        norm = partial(group_norm, epsilon=1e-6, dtype=self.dtype)
        y = nn.relu(norm(conv(self.features, 1, name="conv1")(x), "norm1"))
        y = nn.relu(norm(conv(self.features, 3, self.stride, name="conv2")(y), "norm2"))
        y = conv(4 * self.features, 1, name="conv3")(y)
        y = norm(y, "norm3", scale_init=nn.initializers.zeros)
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            x = conv(4 * self.features, 1, self.stride, name="shortcut_conv")(x)
            x = norm(x, "shortcut_norm")
        return keep_batch_sharded(nn.relu(add(x, y, rate, lambda: self.make_rng("dropout"))))


def stages(unit, x, blocks, width, rates=None, *, scan, remat, **shared):
    """Stages "stage_1" .. of units, called inside a compact module.

    unit: PostactUnit, or a class with its fields. blocks: units of each stage; width: channels of
    the first 3x3, doubled by every stage; rates: as Stage, over all units; shared: fields of every
    unit. Returns the map after each stage, [B, h, w, 4 * width * 2**stage].
    """
    first = partial(rematerialise(unit, remat, in_loop=False), **shared)
    rest = partial(rematerialise(unit, remat, in_loop=scan), **shared)
    maps, done = [], 0
    for index, length in enumerate(blocks):
        name, stride = f"stage_{index + 1}", 1 if index == 0 else 2
        stage = Stage(first, rest, width * 2**index, stride, length, scan, name=name)
        x = stage(x, None if rates is None else rates[done : done + length])
        maps.append(x)
        done += length
    return maps


def postact_root(images, width, *, dtype, standardise="deviation"):
    """7x7 stride 2, norm, ReLU, max pool; called inside a compact module. The pool's border is
    SAME, filled with -inf as XLA has it (after a ReLU zeros would do the same)."""
    x = _conv(width, 7, 2, standardise=standardise, dtype=dtype, name="stem_conv")(images)
    x = nn.relu(group_norm(x, "stem_norm", epsilon=1e-6, dtype=dtype))
    return keep_batch_sharded(nn.max_pool(x, (3, 3), (2, 2), padding="SAME"))


class ResNetStem(nn.Module):
    """The ResNet before a hybrid transformer (arXiv:2010.11929, sec. 3.1): R50's is (3, 4, 9),
    its fourth stage moved to the third; R26's (2, 2, 2, 2); () is the root alone.

    blocks: units of each stage. width: channels of the root, a multiple of 32. scan, remat, dtype:
    as in vit.create. standardise: a name in STANDARDISATIONS, "variance" for timm's hybrids. Any
    image size is taken: odd sides are rounded up at every halving.
    """

    blocks: tuple[int, ...] = (3, 4, 9)
    width: int = 64
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32
    standardise: str = "deviation"

    @property
    def stride(self):
        """Pixels per side of a position of the map."""
        return 4 * 2 ** max(len(self.blocks) - 1, 0)

    @property
    def channels(self):
        """C of the map."""
        return self.width * 2 ** (len(self.blocks) + 1) if self.blocks else self.width

    @nn.compact
    def __call__(self, images):  # [B, H, W, 3] -> [B, H / stride, W / stride, channels]
        shared = {"dtype": self.dtype, "standardise": self.standardise}
        x = postact_root(images, self.width, **shared)
        loop = {"scan": self.scan, "remat": self.remat}
        return [x, *stages(PostactUnit, x, self.blocks, self.width, **loop, **shared)][-1]


def macs(image_size, blocks, width):
    """Multiply-adds of root and stages on one image, convolutions only, in either form."""
    halves = [image_size]
    for _ in range(len(blocks) + 1):
        halves.append((halves[-1] + 1) // 2)
    total, before = halves[1] ** 2 * 49 * 3 * width, width
    for index, length in enumerate(blocks):
        C, side, inside = width * 2**index, halves[index + 2], halves[max(index + 1, 2)]
        total += inside**2 * before * C + side**2 * (13 * C * C + before * 4 * C)
        total += (length - 1) * side**2 * 17 * C * C
        before = 4 * C
    return total
