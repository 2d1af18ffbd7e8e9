"""CoAtNet (arXiv:2106.04803): two stages of convolution, two of attention with relative positions.

There are no public weights of the paper's own code: the forms here are timm's, one after the paper
and those ("rw") that have public weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models import mbconv
from vitjax.models.attention import HeadsDense
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import MLP, check_rates, drop_path, hide, layer_scale, require_key
from vitjax.models.mbconv import EXPANSION, MBConv, Style, block_norm, halve, shortcut
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, rematerialise, repeat
from vitjax.ops.attention import IMPLEMENTATIONS, attention, attention_weights
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.device import device
from vitjax.ops.position import log_offsets, relative_bias, resample_offsets

# B batch, h x w map, N = h * w tokens, C channels, H heads.

HEAD_WIDTH = 32
STRIDE = 32


class Variant(NamedTuple):
    """depths and dims: blocks and channels of each stage. stem: channels of its convolutions."""

    style: Style
    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    stem: tuple[int, int]


# After the paper (table 3 of arXiv:2106.04803), and timm's own (its maxxvit.py): the first ones,
# the later ones, and the small ones, which are later still.
PAPER = Style()
RW = Style(
    expand="in",
    act="silu",
    act_first=True,
    biases=False,
    shortcut_bias=False,
    early_squeeze=True,
    squeeze_act="relu",
    head="map",
)
LATE = RW._replace(shortcut_bias=True, early_squeeze=False)
LARGE = LATE._replace(squeeze_act="silu")
SCALED = LARGE._replace(layer_scale=1e-6)
SMALL = LARGE._replace(act_first=False, biases=True)
D64, D96, D128, D192 = ((width, 2 * width, 4 * width, 8 * width) for width in (64, 96, 128, 192))
VARIANTS = {
    "0": Variant(PAPER, (2, 3, 5, 2), D96, (64, 64)),
    "1": Variant(PAPER, (2, 6, 14, 2), D96, (64, 64)),
    "2": Variant(PAPER, (2, 6, 14, 2), D128, (128, 128)),
    "3": Variant(PAPER, (2, 6, 14, 2), D192, (192, 192)),
    "4": Variant(PAPER, (2, 12, 28, 2), D192, (192, 192)),
    "5": Variant(PAPER, (2, 12, 28, 2), (256, 512, 1280, 2048), (192, 192)),
    "pico_rw": Variant(SMALL, (2, 3, 5, 2), D64, (32, 64)),
    "nano_rw": Variant(SMALL._replace(stride="pool"), (3, 4, 6, 3), D64, (32, 64)),
    "0_rw": Variant(RW._replace(stride="pool"), (2, 3, 7, 2), D96, (32, 64)),
    "1_rw": Variant(RW, (2, 6, 14, 2), D96, (32, 64)),
    "2_rw": Variant(LARGE, (2, 6, 14, 2), D128, (64, 128)),
    "3_rw": Variant(SCALED, (2, 6, 14, 2), D192, (96, 192)),
    "bn_0_rw": Variant(RW._replace(norm="batch"), (2, 3, 7, 2), D96, (32, 64)),
    "rmlp_nano_rw": Variant(SMALL._replace(positions=384), (3, 4, 6, 3), D64, (32, 64)),
    "rmlp_0_rw": Variant(LATE._replace(positions=512), (2, 3, 7, 2), D96, (32, 64)),
    "rmlp_1_rw": Variant(
        RW._replace(stride="pool", pool="max", positions=384), (2, 6, 14, 2), D96, (32, 64)
    ),
    "rmlp_1_rw2": Variant(LATE._replace(positions=512), (2, 6, 14, 2), D96, (32, 64)),
    "rmlp_2_rw": Variant(SCALED._replace(positions=512), (2, 6, 14, 2), D128, (64, 128)),
    "rmlp_3_rw": Variant(SCALED._replace(positions=512), (2, 6, 14, 2), D192, (96, 192)),
}
LAYERS = ("stem", "stage_1", "stage_2", "stage_3", "stage_4")


class RelativeAttention(nn.Module):
    """Multi-head attention with a bias for each offset between query and key.

    Kernels: query, key, value [C, H, 32] and out [H, 32, features]. weights: give the attention
    weights [B, H, N, N] float32 instead. positions: as in mbconv.Style.
    """

    features: int
    heads: int
    positions: int
    weights: bool
    dtype: Any
    implementation: str | None = None

    @nn.compact
    def __call__(self, x):  # [B, h, w, C] -> [B, h, w, features]
        B, h, w, C = x.shape

        bias = relative_bias(self._table(h, w), h, w)
        tokens = x.reshape(B, h * w, C)
        split = (self.heads, HEAD_WIDTH)

        def project(name):
            return HeadsDense((C,), split, dtype=self.dtype, name=name)(tokens)

        q, k = project("query"), project("key")  # [B, N, H, 32]
        if self.weights:
            return attention_weights(q, k, bias=bias)
        y = attention(q, k, project("value"), bias=bias, implementation=self.implementation)
        out = HeadsDense(split, (self.features,), dtype=self.dtype, name="out")
        return out(y).reshape(B, h, w, -1)

    def _table(self, h, w):
        """[2h - 1, 2w - 1, H], learned for the map at initialisation or made for any."""
        if self.positions:
            mlp = [nn.Dense(self.positions, name="positions_up")]
            mlp += [nn.relu, nn.Dense(self.heads, name="positions_down")]
            return nn.Sequential(mlp)(log_offsets(h, w))
        shape = (2 * h - 1, 2 * w - 1, self.heads)
        if self.has_variable("params", "position_bias"):
            shape = self.get_variable("params", "position_bias").shape
        init = nn.initializers.truncated_normal(0.02)
        return resample_offsets(self.param("position_bias", init, shape), h, w)


class AttentionBlock(nn.Module):
    """Pre-norm relative attention and MLP; with stride 2, what is attended to is halved after its
    norm. weights: give the attention weights of the block instead."""

    features: int
    stride: int
    style: Style
    train: bool
    dtype: Any
    attention: str | None = None
    weights: bool = False

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, h, w, C] -> [B, h / stride, w / stride, features]. rate: of stochastic depth, a
        float32 scalar; None for none."""
        style = self.style
        width = self.features if style.expand == "out" else x.shape[-1]
        norm = partial(block_norm, style=style, train=self.train, dtype=self.dtype)

        def add(x, branch, name):
            if style.layer_scale:
                branch = layer_scale(self, branch, style.layer_scale, name)
            if rate is not None:
                branch = drop_path(branch, rate, self.make_rng("dropout"))
            return x + branch

        y = norm(x, name="norm1")
        y = halve(y, style.pool) if self.stride == 2 else y
        heads = width // HEAD_WIDTH
        y = RelativeAttention(
            self.features,
            heads,
            style.positions,
            self.weights,
            self.dtype,
            self.attention,
            name="attention",
        )(y)
        if self.weights:
            return y
        bias = style.shortcut_bias
        x = shortcut(x, self.features, self.stride, pool=style.pool, bias=bias, dtype=self.dtype)
        x = add(x, y, "layer_scale1")
        mlp = MLP(EXPANSION * self.features, activation="gelu", dtype=self.dtype, name="mlp")
        x = add(x, mlp(norm(x, name="norm2")), "layer_scale2")
        return keep_batch_sharded(x)


class Stage(nn.Module):
    """A first block that halves the map, then `length` - 1 equal ones in a scan.

    first, rest: make a block from stride and name.
    """

    first: Callable[..., nn.Module]
    rest: Callable[..., nn.Module]
    length: int
    scan: bool

    @nn.compact
    def __call__(self, x, rates=None, collect=False):
        """rates: None, or [length] float32. Returns the map, and with collect=True what entered
        each block."""
        first = self.first(stride=2, name="first")
        entered, x = [x], (first(x) if rates is None else first(x, rates[0]))
        if self.length > 1:
            second = x
            blocks = self.rest(stride=1, name="blocks")
            rates = None if rates is None else rates[1:]
            times = self.length - 1
            x, outputs = repeat(blocks, x, rates, length=times, scan=self.scan, collect=collect)
            if collect:
                entered += [second, *outputs[:-1]]
        return x, entered


class CoAtNet(nn.Module):
    """Stem, four stages, last norm, mean. The fields are the settings of `create`."""

    variant: Variant
    mask_token: bool
    drop_path: float
    scan: bool
    remat: str
    dtype: Any
    attention: str | None

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=(), attend=()):
        """Features, or the attention weights of the blocks that attend= names instead."""
        require_key(self, train, drop_path=self.drop_path)
        _check_size(images.shape[1:3])
        style, depths, dims, _ = self.variant
        rates = self._rates(train)
        x = mbconv.stem(images, self.variant.stem, act=style.act, train=train, dtype=self.dtype)
        x = hide(self, x, mask)
        maps, entered = {"stem": x}, {}
        for index, (length, features) in enumerate(zip(depths, dims, strict=True)):
            block = MBConv if index < 2 else AttentionBlock
            shared = {"features": features, "style": style, "train": train, "dtype": self.dtype}
            if index >= 2:
                shared["attention"] = self.attention
            first = partial(rematerialise(block, self.remat, in_loop=False), **shared)
            rest = partial(rematerialise(block, self.remat, in_loop=self.scan), **shared)
            name = f"stage_{index + 1}"
            stage = Stage(first, rest, length, self.scan, name=name)
            x, before = stage(x, rates[index], collect=bool(attend) and index >= 2)
            maps[name] = x
            entered |= {f"{name}_block_{i:02d}": y for i, y in enumerate(before)}
        if attend:
            return {name: self._weights(name, entered[name]) for name in attend}
        wanted = {name: maps[name] for name in layers}
        vectors = {name: map.mean(axis=(1, 2)) for name, map in wanted.items()}
        norm = partial(block_norm, style=style, train=train, dtype=self.dtype, name="norm")
        if style.head == "map":
            x = norm(x)
            pooled = x.mean(axis=(1, 2))
        else:
            pooled = norm(x.mean(axis=(1, 2)))
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return Features(pooled, x, wanted, vectors, tokens)

    def _rates(self, train):
        """Of stochastic depth, [length] float32 for each stage: linear from 0 at the first block
        of the network. None in each place where nothing is dropped."""
        if not (train and self.drop_path):
            return [None] * 4
        depths = self.variant.depths
        rates = np.linspace(0.0, self.drop_path, sum(depths), dtype=np.float32)
        return [jnp.asarray(part) for part in np.split(rates, np.cumsum(depths)[:-1])]

    def _weights(self, name, x):
        """x: what enters a block -> its attention weights, in float32: the kernels of attention
        never hold them."""
        stage, _, number = name.partition("_block_")
        trees = {kind: tree[stage] for kind, tree in self.variables.items() if stage in tree}
        if int(number):
            at, stride = int(number) - 1, 1
            trees = {
                kind: jax.tree.map(lambda leaf: leaf[at], tree["blocks"])
                for kind, tree in trees.items()
            }
        else:
            trees, stride = {kind: tree["first"] for kind, tree in trees.items()}, 2
        features = self.variant.dims[LAYERS.index(stage) - 1]
        block = AttentionBlock(
            features, stride, self.variant.style, False, jnp.float32, weights=True, parent=None
        )
        return block.apply(trees, x.astype(jnp.float32))


def attending(depths):
    """Names of the blocks with attention, by the lengths of the four stages."""
    stages = ("stage_3", depths[2]), ("stage_4", depths[3])
    return tuple(f"{stage}_block_{i:02d}" for stage, length in stages for i in range(length))


def create(
    variant="0",
    *,
    depths=None,
    dims=None,
    stem=None,
    mask_token=False,
    drop_path=0.0,
    attention=None,
    scan=None,
    remat="none",
    dtype="float32",
):
    """A CoAtNet. Returns a `features.Encoder`; its layers are "stem", "stage_1" .. "stage_4".

    variant: a name in VARIANTS: "0" to "5" after the paper, "nano_rw", "0_rw" ... as timm's public
    weights; depths (blocks of each stage), dims (channels of each) and stem (channels of its two
    convolutions) replace the table's numbers. mask_token: whether `apply` takes a mask, see
    layers.hide. drop_path: stochastic depth of the last block, linear from 0 at the first.
    attention: what computes it, a name in ops.attention.IMPLEMENTATIONS; None for the best that is
    to be had. scan: compile one block of each stage for all its equal blocks, or unroll them; None
    scans except on a CPU (see resnet.create). remat: a name in stack.REMAT. dtype: "float32" or
    "bfloat16" arithmetic; parameters and statistics are float32.

    Images of any size in multiples of 32. Tables of relative positions are made for the image size
    given to init and resampled for others. The "rw" variants norm the last map, which is `patches`,
    and their `pooled` is its mean; the others leave the map alone and norm its mean: `pooled`.
    Raises ValueError for bad values.
    """
    row = lookup(VARIANTS, str(variant), "encoder.variant")
    given = {"depths": depths, "dims": dims, "stem": stem}
    row = row._replace(**{key: tuple(value) for key, value in given.items() if value is not None})
    _check_numbers(row)
    check_rates(drop_path=drop_path)
    if attention is not None:
        lookup(IMPLEMENTATIONS, attention, "encoder.attention")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    scan = device()[0] != "cpu" if scan is None else scan
    network = CoAtNet(row, mask_token, drop_path, scan, remat, compute, attention)
    return Encoder(
        name=f"coatnet {variant}",
        width=row.dims[-1],
        stride=STRIDE,
        layers=LAYERS,
        network=network,
        macs=lambda image_size: _macs(row, image_size),
        attends=tuple((block, 0) for block in attending(row.depths)),
        attention=lambda variables, images, names: network.apply(
            {"params": variables["params"], "batch_stats": variables["stats"]},
            images,
            attend=tuple(names),
        ),
    )


def _check_numbers(row):
    for key, count in {"depths": 4, "dims": 4, "stem": 2}.items():
        numbers = getattr(row, key)
        if len(numbers) != count or any(type(n) is not int or n < 1 for n in numbers):
            raise ValueError(
                f"encoder.{key} is {list(numbers)}; expected {count} whole numbers above 0"
            )
    # The first attention block of the "in" forms has the heads of what comes in.
    attended = row.dims[1:] if row.style.expand == "in" else row.dims[2:]
    if any(n % 4 for n in row.stem + row.dims) or any(n % HEAD_WIDTH for n in attended):
        raise ValueError(
            f"encoder.stem is {list(row.stem)} and encoder.dims {list(row.dims)}; expected "
            f"multiples of 4, and of {HEAD_WIDTH} in the last {len(attended)} of dims, for heads"
        )


def _check_size(sides):
    for side in sides:
        if side < STRIDE or side % STRIDE:
            raise ValueError(
                f"image size {side} is not a multiple of {STRIDE}, as a coatnet halves it five "
                f"times: set views.size to {max(1, side // STRIDE) * STRIDE}"
            )


def _macs(variant, image_size):
    """Multiply-adds of one image: convolutions, projections, MLPs, attention, the MLP of
    positions; norms are left out."""
    style, depths, dims, stem = variant
    side, before = image_size // 2, stem[1]
    total = mbconv.stem_macs(stem, side)
    for index, (length, after) in enumerate(zip(depths, dims, strict=True)):
        cost = mbconv.block_macs if index < 2 else _attention_macs
        total += cost(before, after, side, 2, style)
        side, before = side // 2, after
        total += (length - 1) * cost(after, after, side, 1, style)
    return total


def _attention_macs(before, after, side, stride, style):
    out = side // stride
    width = after if style.expand == "out" else before
    N, heads = out**2, width // HEAD_WIDTH
    attended = N * width * (3 * before + after) + 2 * N * N * width
    positions = (2 * out - 1) ** 2 * style.positions * (2 + heads)
    mlp = 2 * EXPANSION * N * after**2
    return attended + positions + mlp + mbconv.shortcut_macs(before, after, out, stride)
