"""The inverted bottleneck of CoAtNet's first stages (arXiv:2106.04803, sec. 2.1; MBConv is
arXiv:1801.04381, squeeze and excitation arXiv:1709.01507), and what its two published forms differ
in."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.models.layers import DepthwiseConv, drop_path, layer_norm
from vitjax.ops.batch import keep_batch_sharded

# B batch, H x W map, C channels, R hidden channels of squeeze and excitation.

EXPANSION = 4  # of MBConv and of the MLP


class Style(NamedTuple):
    """How a block is put together; the defaults are timm's reading of the paper.

    expand: "out" sizes the middle of an MBConv and the heads of an attention block by the channels
    going out, "in" by those coming in; it differs in the first block of a stage only. act: a name
    in ACTIVATIONS, in the stem and in MBConv. act_first: also after the first norm of MBConv.
    stride: of MBConv, in its depth-wise "conv" or by a "pool" before it. pool: "mean" (2x2) or
    "max" (3x3), of shortcuts and attention blocks; inside MBConv it is the mean always. biases: of
    the last convolution and of the shortcut of MBConv; shortcut_bias: of an attention block.
    early_squeeze: squeeze and excitation before the norm of the depth-wise convolution, not after
    its activation. squeeze_act: a name in ACTIVATIONS. norm: "layer" or "batch", of attention
    blocks and of the end. head: the last norm is on the "mean" of the last map, or on the "map".
    layer_scale: first value on both branches of an attention block, 0 for none. positions: 0 for a
    table of relative positions, else the hidden width of an MLP on log-spaced offsets
    (arXiv:2111.09883, sec. 3.3).
    """

    expand: str = "out"
    act: str = "gelu"
    act_first: bool = False
    stride: str = "conv"
    pool: str = "mean"
    biases: bool = True
    shortcut_bias: bool = True
    early_squeeze: bool = False
    squeeze_act: str = "silu"
    norm: str = "layer"
    head: str = "mean"
    layer_scale: float = 0.0
    positions: int = 0


ACTIVATIONS = {"gelu": partial(nn.gelu, approximate=False), "silu": nn.silu, "relu": nn.relu}


HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
HE_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # k * k, for depth-wise ones


def conv(features, size, stride=1, *, bias=False, dtype, name):
    """x -> its convolution, padded by size // 2 on every side."""
    layer = nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=bias,
        kernel_init=HE_FAN_OUT,
        dtype=dtype,
        name=name,
    )
    return lambda x: keep_batch_sharded(layer(x))  # see resnet.conv


def batch_norm(x, *, train, dtype, name, eps=1e-5):
    """Statistics are float32 and over the global batch; running values move by a tenth."""
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=eps, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


def block_norm(x, *, style, train, dtype, name):
    """Over the channels of each position, or over the batch; eps 1e-6 either way."""
    if style.norm == "batch":
        return batch_norm(x, train=train, dtype=dtype, name=name, eps=1e-6)
    return layer_norm(x, dtype=dtype, name=name)


def halve(x, pool="mean"):
    """[B, H, W, C] -> [B, H / 2, W / 2, C]; both sides are even."""
    if pool == "max":
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    B, H, W, C = x.shape
    return x.reshape(B, H // 2, 2, W // 2, 2, C).mean(axis=(2, 4))


def shortcut(x, features, stride, *, pool, bias, dtype):
    """x itself, or halved and, to other channels, projected. Called inside the block."""
    if stride == 1:
        return x
    x = halve(x, pool)
    if x.shape[-1] == features:
        return x
    return conv(features, 1, bias=bias, dtype=dtype, name="shortcut_conv")(x)


def stem(images, widths, *, act, train, dtype):
    """[B, H, W, 3] -> [B, H / 2, W / 2, C]: two 3x3 convolutions, the first halves. Called inside
    the network. widths: channels of both."""
    x = conv(widths[0], 3, 2, dtype=dtype, name="stem_conv1")(images)
    x = ACTIVATIONS[act](batch_norm(x, train=train, dtype=dtype, name="stem_norm"))
    return conv(widths[1], 3, dtype=dtype, name="stem_conv2")(x)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that has seen the mean of all (arXiv:1709.01507, sec. 3)."""

    hidden: int
    act: str
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        y = x.mean(axis=(1, 2))
        y = nn.Dense(self.hidden, dtype=self.dtype, name="down")(y)  # [B, R]
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="up")(ACTIVATIONS[self.act](y))
        return x * jax.nn.sigmoid(y)[:, None, None]


class MBConv(nn.Module):
    """Pre-norm inverted bottleneck: norm, 1x1 out to the middle, depth-wise 3x3, 1x1 back."""

    features: int
    stride: int
    style: Style
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, H, W, C] -> [B, H / stride, W / stride, features]. rate: of stochastic depth, a
        float32 scalar; None for none."""
        style, act = self.style, ACTIVATIONS[self.style.act]
        middle = EXPANSION * (self.features if style.expand == "out" else x.shape[-1])
        hidden = (self.features if style.expand == "out" else middle) // 4
        norm = partial(batch_norm, train=self.train, dtype=self.dtype)
        squeeze = SqueezeExcite(hidden, style.squeeze_act, self.dtype, name="squeeze")

        y = norm(x, name="norm")
        y = act(y) if style.act_first else y
        y = halve(y) if self.stride == 2 and style.stride == "pool" else y
        y = conv(middle, 1, dtype=self.dtype, name="conv1")(y)
        y = act(norm(y, name="norm1"))
        stride = self.stride if style.stride == "conv" else 1
        y = DepthwiseConv(3, stride, False, HE_FAN_IN, self.dtype, name="depthwise")(y)
        y = squeeze(y) if style.early_squeeze else y
        y = act(norm(y, name="norm2"))
        y = y if style.early_squeeze else squeeze(y)
        y = conv(self.features, 1, bias=style.biases, dtype=self.dtype, name="conv3")(y)
        if rate is not None:
            y = drop_path(y, rate, self.make_rng("dropout"))
        x = shortcut(
            x, self.features, self.stride, pool=style.pool, bias=style.biases, dtype=self.dtype
        )
        return keep_batch_sharded(x + y)


def block_macs(before, after, side, stride, style):
    """Multiply-adds of one block. side: pixels per side of what comes in, before: its channels."""
    out = side // stride
    middle = EXPANSION * (after if style.expand == "out" else before)
    hidden = (after if style.expand == "out" else middle) // 4
    inside = out if style.stride == "pool" else side
    total = inside**2 * before * middle + out**2 * middle * (9 + after) + 2 * middle * hidden
    return total + shortcut_macs(before, after, out, stride)


def stem_macs(widths, out):
    """out: pixels per side of what goes out."""
    return out**2 * 9 * (3 * widths[0] + widths[0] * widths[1])


def shortcut_macs(before, after, out, stride):
    return out**2 * before * after if stride == 2 and before != after else 0
