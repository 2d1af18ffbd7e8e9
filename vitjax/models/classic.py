"""The history of the field: the zip-code network of 1989, LeNet-5, AlexNet, and the two-layer
network of tutorials.

Each has the counts its source prints; where a source leaves something open, the class says what was
taken. `pooled` is the last hidden layer, what the classifier reads; `patches` is the last map
before the dense layers, of another width. The networks of 1989 and 1998 are gray: they see the mean
of the three channels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import check_rates, refuse_mask, require_key
from vitjax.models.precision import DTYPES
from vitjax.ops.batch import keep_batch_sharded

# B batch, H x W map, C channels, S side of the image in pixels.

# Maps of H1 that each map of H2 reads in zip1989. The paper says eight of twelve and leaves the
# scheme out: taken are eight neighbours on a ring, so that each map of H1 is read eight times.
H2_READS = tuple(tuple((map + step) % 12 for step in range(8)) for map in range(12))
# Maps of S2 that each map of C3 reads in LeNet-5 (LeCun et al. 1998, table I), on a ring of six:
# three neighbours, four neighbours, two pairs, all.
C3_READS = (
    *(tuple((map + step) % 6 for step in (0, 1, 2)) for map in range(6)),
    *(tuple((map + step) % 6 for step in (0, 1, 2, 3)) for map in range(6)),
    *(tuple((map + step) % 6 for step in (0, 1, 3, 4)) for map in range(3)),
    tuple(range(6)),
)
# Of AlexNet: channels, kernel, stride, padding, whether a 3x3 max pool of stride 2 follows.
ALEXNET = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
HIDDEN = 4096  # units of each of AlexNet's hidden layers


def sums(x):
    """Sums of 2x2, [B, H, W, C] -> [B, H // 2, W // 2, C]."""
    return nn.pooling.pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID")


POOLS = {"avg": lambda x: sums(x) / 4, "max": lambda x: nn.max_pool(x, (2, 2), (2, 2))}


def squash(x):
    """The scaled hyperbolic tangent, squash(1) = 1 (LeCun et al. 1998, appendix A). The paper of
    1989 has one too, without its numbers."""
    return 1.7159 * nn.tanh(2 / 3 * x)


def by_fan_in(key, shape, dtype=jnp.float32, inputs=None):
    """Uniform between -2.4 / F and 2.4 / F, F the inputs of a unit (LeCun et al. 1989 and 1998).

    inputs: F of each place of the last dimension; None where it is all the other dimensions.
    """
    F = np.float32(math.prod(shape[:-1]) if inputs is None else inputs)
    return jax.random.uniform(key, shape, dtype, -1, 1) * np.full(shape, 2.4 / F, dtype)


def conv5(features, stride=1, *, bias=True, dtype, name):
    """5x5 without padding, as both of LeCun's networks have it."""
    return nn.Conv(
        features,
        (5, 5),
        (stride, stride),
        padding="VALID",
        use_bias=bias,
        kernel_init=by_fan_in,
        dtype=dtype,
        name=name,
    )


class Reading(nn.Module):
    """A 5x5 convolution without padding or bias where each map reads only some maps of x.

    table: per map of the result, which maps of x it reads. The kernel is [5, 5, pairs], row after
    row of the table: only connections that are there. They are laid into a full kernel, since XLA
    has no fast way with less.
    """

    table: tuple[tuple[int, ...], ...]
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        lengths = [len(row) for row in self.table]
        reads, maps = np.concatenate(self.table), np.repeat(np.arange(len(lengths)), lengths)
        init = partial(by_fan_in, inputs=25 * np.repeat(lengths, lengths))
        kernel = self.param("kernel", init, (5, 5, len(reads))).astype(self.dtype)
        full = jnp.zeros((5, 5, x.shape[-1], len(lengths)), self.dtype)
        full = full.at[:, :, reads, maps].set(kernel)
        strides, names = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, full, strides, "VALID", dimension_numbers=names)


def features_of(maps, pooled, layers):
    """maps: by name, in order; the last one is `patches`."""
    patches = list(maps.values())[-1]
    wanted = {name: maps[name] for name in layers}
    vectors = {name: map.mean(axis=(1, 2)) for name, map in wanted.items()}
    tokens = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    return Features(keep_batch_sharded(pooled), patches, wanted, vectors, tokens)


def gray(images, side, variant, dtype):
    """[B, H, W, 3] -> [B, H, W, 1]. Raises ValueError for any other side than the one given."""
    height, width = images.shape[1:3]
    if (height, width) != (side, side):
        raise ValueError(
            f"image size {height}x{width}: encoder.variant {variant} takes {side}x{side} only, set "
            f"views.size to {side}"
        )
    return images.mean(axis=-1, keepdims=True).astype(dtype)


class Zip1989(nn.Module):
    """LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition", Neural
    Computation 1(4), "Network architecture": 9,760 parameters with ten outputs.

    Weights are shared across a map, thresholds are not: H1 has 25 x 12 weights and 768 biases, H2
    200 x 12 and 192. Beyond its border a layer reads the background, -1: pixels are meant to lie
    in [-1, 1] (mean and std 0.5), paper at -1.
    """

    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        del train  # the same in evaluation
        refuse_mask("classic", mask)
        x = self._bordered(gray(images, 16, "zip1989", self.dtype))
        x = conv5(12, 2, bias=False, dtype=self.dtype, name="conv_h1")(x)
        h1 = self._units(x, "h1_bias")  # [B, 8, 8, 12]
        x = Reading(H2_READS, 2, self.dtype, name="conv_h2")(self._bordered(h1))
        h2 = self._units(x, "h2_bias")  # [B, 4, 4, 12]
        x = h2.reshape(h2.shape[0], -1)
        x = squash(nn.Dense(30, kernel_init=by_fan_in, dtype=self.dtype, name="h3")(x))
        return features_of({"h1": h1, "h2": h2}, x, layers)

    def _bordered(self, x):
        return jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)

    def _units(self, x, name):
        """A threshold per unit, then the squashing."""
        bias = self.param(name, nn.initializers.zeros, x.shape[1:])
        return keep_batch_sharded(squash(x + bias.astype(self.dtype)[None]))


class Subsample(nn.Module):
    """Sums of 2x2, times a coefficient and plus a bias per map (LeCun et al. 1998, sec. II-B).
    The coefficient starts at 1/4: the mean."""

    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, H, W, C] -> [B, H / 2, W / 2, C]
        C = x.shape[-1]
        coefficient = self.param("coefficient", nn.initializers.constant(0.25), (C,))
        bias = self.param("bias", nn.initializers.zeros, (C,))
        coefficient, bias = (p.astype(self.dtype)[None, None, None] for p in (coefficient, bias))
        return coefficient * sums(x) + bias


class LeNet5(nn.Module):
    """LeCun et al. 1998, "Gradient-based learning applied to document recognition", Proc. IEEE
    86(11), sec. II-B: 60,000 parameters up to F6; its radial-basis outputs are left to a head. Its
    pixels are -0.1 for paper and 1.175 for ink."""

    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        del train  # the same in evaluation
        refuse_mask("classic", mask)
        maps = {}

        def layer(name, x):
            maps[name] = keep_batch_sharded(squash(x))
            return maps[name]

        x = gray(images, 32, "lenet5", self.dtype)
        x = layer("c1", conv5(6, dtype=self.dtype, name="conv_c1")(x))  # [B, 28, 28, 6]
        x = layer("s2", Subsample(self.dtype, name="s2")(x))  # [B, 14, 14, 6]
        x = Reading(C3_READS, 1, self.dtype, name="conv_c3")(x)
        bias = self.param("c3_bias", nn.initializers.zeros, x.shape[-1:]).astype(self.dtype)
        x = layer("c3", x + bias[None, None, None])  # [B, 10, 10, 16]
        x = layer("s4", Subsample(self.dtype, name="s4")(x))  # [B, 5, 5, 16]
        x = squash(conv5(120, dtype=self.dtype, name="conv_c5")(x))[:, 0, 0]  # [B, 120]
        x = squash(nn.Dense(84, kernel_init=by_fan_in, dtype=self.dtype, name="f6")(x))
        return features_of(maps, x, layers)


def adaptive_mean(x, side):
    """[B, H, W, C] -> [B, side, side, C]: cell i is the mean from floor(i H / side) to
    ceil((i + 1) H / side), as PyTorch's AdaptiveAvgPool2d."""
    for axis in (1, 2):
        n = x.shape[axis]
        cells = [(i * n // side, -(-(i + 1) * n // side)) for i in range(side)]
        parts = [jax.lax.slice_in_dim(x, *cell, axis=axis).mean(axis=axis) for cell in cells]
        x = jnp.stack(parts, axis=axis)
    return x


class Hidden(nn.Module):
    """Two layers, each after a dropout (Krizhevsky et al. 2012, sec. 4.2)."""

    dropout: float
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [B, D] -> [B, HIDDEN]
        dense = partial(nn.Dense, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        for name in ("up", "down"):
            x = nn.Dropout(self.dropout, deterministic=not self.train)(x)
            x = keep_batch_sharded(nn.relu(dense(HIDDEN, name=name)(x)))
        return x


class AlexNet(nn.Module):
    """Krizhevsky, Sutskever, Hinton 2012, in one tower and without response normalisation
    (arXiv:1404.5997), as torchvision has it: 61,100,840 parameters with 1000 classes.

    Kernels start He normal (arXiv:1502.01852), biases at zero: the paper's deviation of 0.01 was
    for pixels up to 255. The last map is averaged to 6x6: any image from 63 pixels on is taken.
    """

    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        refuse_mask("classic", mask)
        require_key(self, train, dropout=self.dropout)
        height, width = images.shape[1:3]
        if min(height, width) < 63:
            raise ValueError(
                f"image size {height}x{width}: encoder.variant alexnet takes 63 pixels a side or "
                f"more, set views.size"
            )
        conv = partial(nn.Conv, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        maps, x = {}, images
        for index, (channels, kernel, stride, padding, pooled) in enumerate(ALEXNET):
            name = f"conv{index + 1}"
            window = (kernel, kernel)
            x = nn.relu(conv(channels, window, stride, padding=padding, name=name)(x))
            if pooled:
                x = nn.max_pool(x, (3, 3), (2, 2))
            x = maps[name] = keep_batch_sharded(x)
        x = adaptive_mean(x, 6).reshape(x.shape[0], -1)
        x = Hidden(self.dropout, train, self.dtype, name="mlp")(x)
        return features_of(maps, x, layers)


class ConvPool(nn.Module):
    """The network of flax's MNIST example (github.com/google/flax, examples/mnist/train.py) and of
    many tutorials: 3x3 convolutions of 32 and 64 maps, each with a 2x2 pool, and 256 units; here
    on colour. The units fix the image size."""

    pool: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        del train  # the same in evaluation
        refuse_mask("classic", mask)
        height, width = images.shape[1:3]
        if min(height, width) < 4:
            raise ValueError(
                f"image size {height}x{width}: encoder.variant convpool takes 4 pixels a side or "
                f"more, set views.size"
            )
        self._check(height, width)
        maps, x = {}, images
        for name, channels in (("conv1", 32), ("conv2", 64)):
            x = nn.relu(nn.Conv(channels, (3, 3), padding=1, dtype=self.dtype, name=name)(x))
            x = maps[name] = keep_batch_sharded(POOLS[self.pool](x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(256, dtype=self.dtype, name="dense")(x))
        return features_of(maps, x, layers)

    def _check(self, height, width):
        """Refuse a map that the units were not made for; they are made for square ones."""
        if self.is_initializing():
            return
        side = math.isqrt(self.variables["params"]["dense"]["kernel"].shape[0] // 64)
        if (height // 4, width // 4) != (side, side):
            raise ValueError(
                f"image size {height}x{width} does not fit the dense layer made for {4 * side} to "
                f"{4 * side + 3} pixels a side: set views.size to {4 * side}"
            )


def _alexnet_macs(image_size):
    side, before, total = image_size, 3, 6 * 6 * 256 * HIDDEN + HIDDEN * HIDDEN
    for channels, kernel, stride, padding, pooled in ALEXNET:
        side = (side + 2 * padding - kernel) // stride + 1
        total += side**2 * kernel**2 * before * channels
        side, before = (side - 3) // 2 + 1 if pooled else side, channels
    return total


class Variant(NamedTuple):
    """defaults: the settings it has. stride: pixels from one place of the last map to the next.
    macs(S): multiply-adds of an image of S x S."""

    network: Callable[..., nn.Module]
    defaults: dict[str, Any]
    width: int
    stride: int
    layers: tuple[str, ...]
    macs: Callable[[int], int]


# Products of connections that are there; zeros in a kernel are not counted.
VARIANTS = {
    "zip1989": Variant(Zip1989, {}, 30, 4, ("h1", "h2"), lambda S: 768 * 25 + 192 * 200 + 192 * 30),
    "lenet5": Variant(
        LeNet5,
        {},
        84,
        4,
        ("c1", "s2", "c3", "s4"),
        lambda S: 28 * 28 * 6 * 25 + 10 * 10 * 60 * 25 + 400 * 120 + 120 * 84,
    ),
    "alexnet": Variant(
        AlexNet,
        {"dropout": 0.5},
        HIDDEN,
        32,
        tuple(f"conv{index + 1}" for index in range(len(ALEXNET))),
        _alexnet_macs,
    ),
    "convpool": Variant(
        ConvPool,
        {"pool": "avg"},
        256,
        4,
        ("conv1", "conv2"),
        lambda S: S**2 * 27 * 32 + (S // 2) ** 2 * 288 * 64 + (S // 4) ** 2 * 64 * 256,
    ),
}


def create(variant="lenet5", *, pool=None, dropout=None, dtype="float32"):
    """A network of the history. Returns a `features.Encoder`.

    variant: a name in VARIANTS. "zip1989" takes images of 16 pixels a side and "lenet5" of 32,
    "alexnet" any from 63 on, "convpool" the size given to `init`. pool: "avg" (the default) or
    "max", of convpool only. dropout: before each hidden layer of alexnet (default 0.5), of alexnet
    only. dtype: "float32" or "bfloat16" arithmetic; parameters are float32. Layers have the names
    of the papers: maps after their squashing or ReLU, and after the pool where one follows. Raises
    ValueError for bad values.
    """
    row = lookup(VARIANTS, variant, "encoder.variant")
    given = {"pool": pool, "dropout": dropout}
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in row.defaults:
            raise ValueError(
                f"encoder.{key}={value!r} means nothing to encoder.variant {variant}: leave it out"
            )
    settings = row.defaults | given
    if "pool" in settings:
        lookup(POOLS, settings["pool"], "encoder.pool")
    if "dropout" in settings:
        check_rates(dropout=settings["dropout"])
    return Encoder(
        name=f"classic {variant}",
        width=row.width,
        stride=row.stride,
        layers=row.layers,
        network=row.network(**settings, dtype=lookup(DTYPES, dtype, "encoder.dtype")),
        macs=row.macs,
    )
