"""ConViT (arXiv:2103.10697): a Vision Transformer that starts as a soft convolution, between a
ConvNet and a ViT: locality is where its heads begin, not what they have to keep."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.attention import HeadsDense
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import check_rates, embed_patches, hide, require_key
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, block_names, rematerialise, repeat
from vitjax.models.transformer import Block, Form, attention_of, weights_of
from vitjax.models.vit_sizes import check_size, parse
from vitjax.ops.attention import IMPLEMENTATIONS, attention, attention_weights
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.position import RESAMPLINGS, relative_bias, resample
from vitjax.ops.quadratic import centres, linear_form, quadratic_offsets

# B batch, h x w grid of patches, N = h * w tokens, D width, H heads.


class Size(NamedTuple):
    """local: of the depth, the blocks with gated positions, which come first."""

    width: int
    depth: int
    local: int
    mlp: int
    heads: int


# Table 1 of the paper; heads are squares, since they start as the taps of a kernel.
SIZES = {
    "Ti": Size(192, 12, 10, 768, 4),
    "S": Size(432, 12, 10, 1728, 9),
    "B": Size(768, 12, 10, 3072, 16),
    "Ti+": Size(256, 12, 10, 1024, 4),
    "S+": Size(576, 12, 10, 2304, 9),
    "B+": Size(1024, 12, 10, 4096, 16),
}
SMALL = nn.initializers.truncated_normal(0.02)


class GatedAttention(nn.Module):
    """Gated positional self-attention (sec. 3, eq. 6-7): each head weighs what its content asks for
    against a place relative to the query, by a learned gate. Needs no norm of its rows: both parts
    sum to 1.

    Kernels: query, key, value [D, H, D / H], without biases, and out [H, D / H, D]; positions
    [3, H], v_h of the paper (its bias, which the published weights have, cancels in the softmax);
    gate [H], lambda_h. grid: the h x w patches of x. locality, gate: where positions and gate
    start, see `create`.
    """

    form: Form
    grid: tuple[int, int]
    locality: float = 1.0
    gate: float = 1.0

    @nn.compact
    def __call__(self, x, weights=False):
        """x: [B, N, D] -> [B, N, D], or with weights=True the weights [B, H, N, N] instead."""
        H, D, dtype = self.form.heads, x.shape[-1], self.form.dtype
        split = (H, D // H)

        def project(name, init):
            return HeadsDense((D,), split, False, dtype, init, name=name)(x)

        q, k = project("query", SMALL), project("key", SMALL)
        gate = self.param("gate", nn.initializers.constant(self.gate), (H,))
        gate = nn.sigmoid(gate)
        places = self._places()  # [H, N, N] float32
        if weights:
            gate = gate[None, :, None, None]
            return (1 - gate) * attention_weights(q, k) + gate * places[None]
        v = project("value", lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype))
        content = attention(q, k, v, implementation=self.form.attention)  # [B, N, H, D / H]
        around = jnp.einsum("hnm,bmhd->bnhd", places.astype(dtype), v)
        gate = gate.astype(dtype)[None, None, :, None]
        out = HeadsDense(split, (D,), True, dtype, SMALL, name="out")
        return out((1 - gate) * content + gate * around)

    def _places(self):
        side = math.isqrt(self.form.heads)

        def init(key, shape, dtype):
            del key  # nothing is drawn
            return jnp.asarray(linear_form(centres(side, side), self.locality), dtype)

        dense = nn.Dense(self.form.heads, kernel_init=init, name="positions")
        h, w = self.grid
        return nn.softmax(relative_bias(dense(quadratic_offsets(h, w)), h, w))


class GatedBlock(Block):
    """A block with gated positions."""

    locality: float = 1.0
    gate: float = 1.0

    def attend(self, x):
        return GatedAttention(self.form, self.grid, self.locality, self.gate, name="attention")(x)


class Stage(nn.Module):
    """`length` equal blocks. block: makes one of them, by name."""

    block: Callable[..., nn.Module]
    length: int
    scan: bool

    @nn.compact
    def __call__(self, x, rates=None, collect=False):
        block = self.block(name="blocks")
        return repeat(block, x, rates, length=self.length, scan=self.scan, collect=collect)


class ConViT(nn.Module):
    """Patches, positions, gated blocks, class token, plain blocks, last norm. The fields are the
    settings of `create`."""

    size: Size
    patch: int
    form: Form
    locality: float
    gate: float
    resample: str
    mask_token: bool
    drop_path: float
    scan: bool
    remat: str

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=(), attend=()):
        """Features, or the attention weights of the blocks that attend= names instead."""
        require_key(self, train, drop_path=self.drop_path)
        width = self.size.width
        x = embed_patches(images, self.patch, width, dtype=self.form.dtype, name="embedding")
        grid = x.shape  # [B, h, w, D]
        x = hide(self, x, mask)
        x = x + self._positions(*grid[1:3]).astype(x.dtype)[None]
        first = keep_batch_sharded(x.reshape(grid[0], -1, width))
        rates, collect = self._rates(train), bool(layers or attend)
        local = {"grid": grid[1:3], "locality": self.locality, "gate": self.gate}
        gated = self._stage("stage_1", self.size.local, GatedBlock, **local)
        x, outputs = gated(first, rates[0], collect=collect)
        cls = self.param("cls", SMALL, (1, 1, width)).astype(x.dtype)
        second = jnp.concatenate([jnp.broadcast_to(cls, (grid[0], 1, width)), x], axis=1)
        plain = self._stage("stage_2", self.size.depth - self.size.local, Block)
        x, last = plain(second, rates[1], collect=collect)
        if collect:
            entered = [first, *outputs[:-1], second, *last[:-1]]
            outputs = [*outputs, *last]
        if attend:
            return {name: self._weights(name, grid[1:3], entered) for name in attend}
        last_norm = nn.LayerNorm(epsilon=self.form.norm_eps, name="norm")

        def norm(x):
            return last_norm(x.astype(jnp.float32)).astype(self.form.dtype)

        def patches(x):
            return x[:, x.shape[1] - grid[1] * grid[2] :].reshape(grid)

        def vector(x):
            """The class token, where it has joined, or the mean."""
            return x[:, 0] if x.shape[1] > grid[1] * grid[2] else x.mean(axis=1)

        tokens, names = norm(x), block_names(self.size.depth)
        wanted = {name: outputs[names.index(name)] for name in layers}
        maps = {name: patches(x) for name, x in wanted.items()}
        vectors = {name: vector(norm(x)) for name, x in wanted.items()}
        return Features(tokens[:, 0], patches(tokens), maps, vectors, tokens)

    def _positions(self, h, w):
        made = h, w
        if self.has_variable("params", "position_embedding"):
            made = self.get_variable("params", "position_embedding").shape[:2]
        table = self.param("position_embedding", SMALL, (*made, self.size.width))
        return resample(table, h, w, self.resample)

    def _stage(self, name, length, block, **settings):
        block = rematerialise(block, self.remat, in_loop=self.scan)
        return Stage(partial(block, self.form, **settings), length, self.scan, name=name)

    def _rates(self, train):
        """Of stochastic depth, for each stage: linear from 0 at the first block of the network."""
        if not (train and self.drop_path):
            return None, None
        rates = jnp.asarray(np.linspace(0.0, self.drop_path, self.size.depth), jnp.float32)
        return rates[: self.size.local], rates[self.size.local :]

    def _weights(self, name, grid, entered):
        at, form = block_names(self.size.depth).index(name), self.form._replace(dtype=jnp.float32)
        if at < self.size.local:
            stage, number = "stage_1", at
            module = GatedAttention(form, grid, parent=None)
        else:
            stage, number = "stage_2", at - self.size.local
            module = attention_of(form, None, parent=None)
        blocks = self.variables["params"][stage]["blocks"]
        block = jax.tree.map(lambda leaf: leaf[number], blocks)
        return weights_of(module, block, entered[at], form.norm_eps)


def create(
    variant="S/16",
    *,
    locality=1.0,
    gate=1.0,
    resample="cubic_antialias",
    mask_token=False,
    drop_path=0.0,
    attention=None,
    scan=True,
    remat="none",
    dtype="float32",
    width=None,
    depth=None,
    local=None,
    mlp=None,
    heads=None,
):
    """A ConViT. Returns a `features.Encoder`; its layers are "block_00" and on.

    variant: a name in SIZES, a slash and the patch side in pixels, as "S/16"; width, depth, local
    (how many of the blocks are gated, at least one less than all), mlp and heads (a square: 1, 4,
    9, 16) replace the table's numbers.
    locality: alpha of the paper, how sharply each head starts on its tap: at 1 a third of its
    weight, from 18 on all of it. gate: lambda of the paper, where the gates start: sigmoid(gate) of
    a head is positions, the rest content. As published both are 1, mildly local; locality=18 and
    gate=20 start as a convolution, of as many taps as heads, to float32's digits.
    resample: a name in ops.position.RESAMPLINGS, as in a vit. mask_token: whether `apply` takes a
    mask. drop_path: stochastic depth of the last block, linear from 0 at the first. attention: what
    computes that of the content, a name in ops.attention.IMPLEMENTATIONS; None for the best that is
    to be had. scan: compile one block of each kind, or unroll them. remat: a name in stack.REMAT.
    dtype: "float32" or "bfloat16" arithmetic; parameters are float32.

    The class token joins before the plain blocks and is what is `pooled`. Values start as the
    identity, queries, keys and what comes out of gated attention at 0.02, the rest as in a vit.
    Raises ValueError for bad values.
    """
    name, patch, stem = parse(variant)
    if stem is not None:
        raise ValueError(f"encoder.variant is {variant!r}: a convit has no ResNet before it")
    size = lookup(SIZES, name, "the size in encoder.variant")
    given = {"width": width, "depth": depth, "local": local, "mlp": mlp, "heads": heads}
    size = size._replace(**{field: n for field, n in given.items() if n is not None})
    _check_numbers(size, locality, drop_path)
    lookup(RESAMPLINGS, resample, "encoder.resample")
    if attention is not None:
        lookup(IMPLEMENTATIONS, attention, "encoder.attention")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    form = Form(size.mlp, size.heads, "gelu", "none", False, 1e-6, None, compute, attention)
    network = ConViT(
        *(size, patch, form, float(locality), float(gate), resample),
        *(mask_token, drop_path, scan, remat),
    )
    names = block_names(size.depth)
    return Encoder(
        name=f"convit {variant}",
        width=size.width,
        stride=patch,
        layers=names,
        network=network,
        macs=lambda image_size: _macs(size, patch, image_size),
        prefix=1,
        attends=tuple((block, int(at >= size.local)) for at, block in enumerate(names)),
        attention=lambda variables, images, names: network.apply(
            {"params": variables["params"]}, images, attend=tuple(names)
        ),
    )


def _check_numbers(size, locality, drop_path):
    check_size(size)
    if math.isqrt(size.heads) ** 2 != size.heads:
        raise ValueError(
            f"encoder.heads={size.heads}: expected a square, as 4, 9 or 16: heads are taps"
        )
    if size.local >= size.depth:
        raise ValueError(
            f"encoder.local={size.local}: expected below encoder.depth, {size.depth}; the class "
            "token joins behind the gated blocks"
        )
    if not locality > 0:
        raise ValueError(f"encoder.locality={locality}: expected above 0")
    check_rates(drop_path=drop_path)


def _macs(size, patch, image_size):
    """Multiply-adds of one image: embedding, projections, MLP, attention, positions; norms are left
    out."""
    D, depth, local, M, H = size
    side = image_size // patch
    N = side**2
    gated = N * (4 * D * D + 2 * D * M) + 3 * N * N * D + (2 * side - 1) ** 2 * 3 * H
    plain = (N + 1) * (4 * D * D + 2 * D * M) + 2 * (N + 1) ** 2 * D
    return N * patch * patch * 3 * D + local * gated + (depth - local) * plain
