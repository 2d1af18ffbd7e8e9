"""Vision Transformer (arXiv:2010.11929), by default in the shape of "Better plain ViT baselines"
(arXiv:2205.01580): pre-norm, biases everywhere, GELU in its tanh approximation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models import packing
from vitjax.models.attention import BIASES
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import (
    ACTIVATIONS,
    check_rates,
    check_whole_patches,
    embed_patches,
    hide,
    require_key,
)
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT, block_names, rematerialise, repeat
from vitjax.models.transformer import AttentionPool, Block, Form, attention_of, weights_of
from vitjax.models.vit_sizes import SIZES, Size, check_size, parse
from vitjax.models.weight_standardised import STANDARDISATIONS, ResNetStem
from vitjax.models.weight_standardised import macs as stem_macs
from vitjax.ops.attention import IMPLEMENTATIONS
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.device import device
from vitjax.ops.position import RESAMPLINGS, resample, sincos_2d

# B batch, h x w grid of patches, N tokens (prefix + h * w), D width, L depth.


POOLS = {
    "gap": "mean of the patch tokens",
    "cls": "a class token",
    "cls_gap": "both, the class token first",
    "map": "attention pooling",
}
POSITIONS = {
    "learned": "a table, resampled for other grids",
    "sincos": "fixed, any grid",
    "rotary": "queries and keys turned in every block, any grid",
}
DROP_PATHS = {"sample": "sums of each sample", "subset": "a part of the batch is not computed"}


class ViT(nn.Module):
    """Patches, positions, blocks, last norm, pool. The fields are the settings of `create`."""

    size: Size
    patch: int
    form: Form
    pool: str
    positions: str
    class_position: bool
    resample: str
    registers: int
    prefix_norm: bool
    local_norm_below: int
    stem: tuple[int, ...] | None
    stem_standardise: str
    mask_token: bool
    dropout: float
    drop_path: float
    drop_path_form: str
    scan: bool
    remat: str

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=(), attend=(), kept=None):
        """Features, or the attention weights of the blocks that attend= names instead. images may
        be a tuple of crops [B, k, H, W, 3], packed into one sequence an image: then Features of
        each of its members, for B * k crops."""
        require_key(self, train, dropout=self.dropout, drop_path=self.drop_path)
        if isinstance(images, tuple):
            return self._packed(images, train, mask)
        x = self._embed(images)
        grid = x.shape  # [B, h, w, D]
        x = hide(self, x, mask)  # before positions are added (arXiv:2106.08254)
        if self.positions != "rotary":
            x = x + self._position_tables([grid[1:3]])[0].astype(x.dtype)[None]
        x = x.reshape(grid[0], -1, grid[-1])
        if kept is not None:
            x = jnp.take_along_axis(x, kept[:, :, None], axis=1)
            grid = (grid[0], kept.shape[1], 1, grid[-1])
        x = self._prepend(x)  # [B, N, D]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        first = keep_batch_sharded(x)
        turned = grid[1:3] if self.positions == "rotary" else None
        x, outputs = self._blocks(first, turned, train, collect=bool(layers or attend))
        if attend:
            return {name: self._weights(name, turned, first, outputs) for name in attend}
        norm = self._last_norm(prefix_tokens(self), train and images.shape[1])
        return self._features(x, outputs, grid, layers, norm)

    def _weights(self, name, grid, first, outputs):
        """first: what enters the first block; outputs: of all of them."""
        at = block_names(self.size.depth).index(name)
        block = jax.tree.map(lambda leaf: leaf[at], self.variables["params"]["blocks"])
        attention = attention_of(self.form._replace(dtype=jnp.float32), grid, parent=None)
        return weights_of(attention, block, outputs[at - 1] if at else first, self.form.norm_eps)

    def _features(self, x, outputs, grid, layers, norm):
        prefix = prefix_tokens(self)
        tokens = norm(x)
        names = block_names(self.size.depth)
        wanted = {name: outputs[names.index(name)] for name in layers}  # [B, N, D] each
        maps = {name: x[:, prefix:].reshape(grid) for name, x in wanted.items()}
        vectors = {
            name: norm(x)[:, 0] if has_class(self.pool) else norm(x)[:, prefix:].mean(axis=1)
            for name, x in wanted.items()
        }
        patches = tokens[:, prefix:].reshape(grid)
        return Features(self._pool(tokens, patches), patches, maps, vectors, tokens)

    def _embed(self, images):
        embed = {"dtype": self.form.dtype, "name": "embedding"}
        if self.stem is None:
            return embed_patches(images, self.patch, self.size.width, **embed)
        # XLA's CPU backend has slow code for convolutions in a loop, see resnet.create.
        scan = self.scan and device()[0] != "cpu"
        stem = ResNetStem(
            self.stem,
            scan=scan,
            remat=self.remat,
            dtype=self.form.dtype,
            standardise=self.stem_standardise,
            name="stem",
        )
        check_whole_patches(images, self.patch)
        return embed_patches(stem(images), 1, self.size.width, **embed)

    def _position_tables(self, grids):
        """[h, w, D] for each (h, w) of grids."""
        width = self.size.width
        if self.positions == "sincos":
            return [sincos_2d(h, w, width) for h, w in grids]
        made = grids[0]
        if self.has_variable("params", "position_embedding"):
            made = self.get_variable("params", "position_embedding").shape[:2]
        table = self.param("position_embedding", self._position_init(), (*made, width))
        return [resample(table, h, w, self.resample) for h, w in grids]

    def _position_init(self):
        return nn.initializers.normal(self.size.width**-0.5)

    def _prepend(self, x):
        """x: [B, h * w, D], positions added -> [class token, registers, patches]."""
        before = self._prefix().astype(x.dtype)
        return jnp.concatenate(
            [jnp.broadcast_to(before, (x.shape[0], *before.shape[1:])), x], axis=1
        )

    def _prefix(self):
        """Class token and registers: [1, prefix, D]."""
        width, tokens = self.size.width, []
        if has_class(self.pool):
            cls = self.param("cls", nn.initializers.zeros, (1, 1, width))
            if self.class_position:
                cls = cls + self.param("class_position", self._position_init(), cls.shape)
            tokens.append(cls)
        if self.registers:
            shape = (1, self.registers, width)
            tokens.append(self.param("registers", nn.initializers.normal(0.02), shape))
        return jnp.concatenate([*tokens, jnp.zeros((1, 0, width))], axis=1)

    def _packed(self, images, train, mask):
        strip, groups = packing.strip(images, self.patch)
        embed = {"dtype": self.form.dtype, "name": "embedding"}
        x = embed_patches(strip, self.patch, self.size.width, **embed)  # [B, n, 1, D]
        x = hide(self, x, None if mask is None else mask[..., None])[:, :, 0]
        tables = self._position_tables([(group.h, group.w) for group in groups])
        x = x + packing.repeated(tables, groups).astype(x.dtype)[None]
        prefix = prefix_tokens(self)
        lengths = [(prefix + h * w,) * k for k, h, w in groups]
        x = packing.pack(x, groups, self._prefix())
        x = keep_batch_sharded(nn.Dropout(self.dropout, deterministic=not train)(x))
        x, _ = self._blocks(x, None, train, collect=False, lengths=sum(lengths, ()))
        norm = self._last_norm(prefix, False)
        return tuple(
            self._features(part, None, (part.shape[0], h, w, part.shape[-1]), (), norm)
            for part, (_, h, w) in zip(packing.unpack(x, groups, prefix), groups, strict=True)
        )

    def _blocks(self, x, grid, train, collect, lengths=None):
        """x: [B, N, D]. grid, lengths: see Block. collect: also give every block's output."""
        block = rematerialise(Block, self.remat, in_loop=self.scan)(
            self.form,
            grid=grid,
            lengths=lengths,
            dropout=self.dropout,
            subset=self.drop_path if self.drop_path_form == "subset" else 0.0,
            train=train,
            name="blocks",
        )
        depth, rates = self.size.depth, None
        if train and self.drop_path and self.drop_path_form == "sample":
            # From 0 at the first block (arXiv:2012.12877, sec. 6).
            rates = jnp.asarray(np.linspace(0.0, self.drop_path, depth), jnp.float32)
        return repeat(block, x, rates, length=depth, scan=self.scan, collect=collect)

    def _last_norm(self, prefix, training_side):
        """tokens -> tokens, [B, N, D]: one norm for all, or another for those before the patches.

        training_side: of the images in pixels, in training; False outside.
        """
        eps, dtype = self.form.norm_eps, self.form.dtype
        norms = {"patches": nn.LayerNorm(epsilon=eps, name="norm")}
        if self.prefix_norm:
            norms["prefix"] = nn.LayerNorm(epsilon=eps, name="prefix_norm")
        if self.local_norm_below:
            norms["local"] = nn.LayerNorm(epsilon=eps, name="local_prefix_norm")
            if self.is_initializing():
                norms["local"](jnp.zeros((1, self.size.width)))
        local = training_side and training_side < self.local_norm_below
        of_prefix = norms["local"] if local else norms.get("prefix", norms["patches"])

        def norm(x):
            x = x.astype(jnp.float32)
            if of_prefix is norms["patches"]:
                return of_prefix(x).astype(dtype)
            parts = [of_prefix(x[:, :prefix]), norms["patches"](x[:, prefix:])]
            return jnp.concatenate(parts, axis=1).astype(dtype)

        return norm

    def _pool(self, tokens, patches):
        if self.pool == "map":
            return AttentionPool(self.form, name="attention_pool")(tokens)
        cls, mean = tokens[:, 0], patches.mean(axis=(1, 2))
        if self.pool == "cls_gap":
            return jnp.concatenate([cls, mean], axis=-1)
        return cls if self.pool == "cls" else mean


def create(
    variant="S/16",
    *,
    pool="gap",
    positions="learned",
    class_position=False,
    resample="cubic_antialias",
    registers=0,
    prefix_norm=False,
    local_norm_below=0,
    activation="gelu_tanh",
    biases="all",
    qk_norm=False,
    norm_eps=1e-6,
    layer_scale=None,
    stem_standardise="deviation",
    mask_token=False,
    dropout=0.0,
    drop_path=0.0,
    drop_path_form="sample",
    attention=None,
    scan=True,
    remat="none",
    dtype="float32",
    width=None,
    depth=None,
    mlp=None,
    heads=None,
):
    """A Vision Transformer. Returns a `features.Encoder`.

    variant: a name in SIZES, a slash and the patch side in pixels, as "B/16"; with a ResNet before
    it "R50+B/16" (the stride of the ResNet counts). width, depth, mlp and heads replace the
    table's numbers.
    pool: a name in POOLS; "cls" and "cls_gap" prepend a class token after positions are added.
    positions: a name in POSITIONS. class_position: the class token has a position of its own (as
    in the first ViT; equal to a class token without). resample: a name in
    ops.position.RESAMPLINGS, how learned positions, made for the image size given to init, are
    moved to another. registers: learned tokens after the class token (arXiv:2309.16588).
    prefix_norm: tokens before the patches have a last norm of their own, local_norm_below: and in
    training yet another for images of fewer pixels a side (DINOv3's untied norms).
    activation: a name in layers.ACTIVATIONS. biases, qk_norm: see MultiHeadAttention. norm_eps: of
    every LayerNorm. layer_scale: where the learned scales of both branches start, None for none
    (arXiv:2103.17239). stem_standardise: how the kernels of a ResNet before it are, a name in
    weight_standardised.STANDARDISATIONS. mask_token: whether `apply` takes a mask.
    dropout: after positions, inside the MLP and after each branch. drop_path: stochastic depth of
    the last block, linear from 0 at the first; with drop_path_form="subset" of every block, by
    computing each branch on a part of the batch only.
    attention: what computes it in the blocks, a name in ops.attention.IMPLEMENTATIONS; None for
    the best that is to be had.
    scan: compile one block for all, or unroll them; parameters are stacked under "blocks" either
    way. remat: a name in stack.REMAT. dtype: "float32" or "bfloat16" arithmetic; parameters are
    float32. Initialisation is big_vision's. Raises ValueError for bad values.
    """
    name, patch, stem = parse(variant)
    given = {"width": width, "depth": depth, "mlp": mlp, "heads": heads}
    size = lookup(SIZES, name, "the size in encoder.variant")
    size = size._replace(**{field: n for field, n in given.items() if n is not None})
    _check_numbers(size, registers, {"dropout": dropout, "drop_path": drop_path})
    if positions != "learned" and class_position:
        raise ValueError(f"encoder.class_position needs learned positions, not {positions!r}")
    if class_position and not has_class(pool):
        raise ValueError(f"encoder.class_position needs a class token: encoder.pool is {pool!r}")
    if (prefix_norm or local_norm_below) and not (has_class(pool) or registers):
        raise ValueError("encoder.prefix_norm needs a class token or registers: there are none")
    lookup(POOLS, pool, "encoder.pool")
    lookup(POSITIONS, positions, "encoder.positions")
    lookup(RESAMPLINGS, resample, "encoder.resample")
    lookup(ACTIVATIONS, activation, "encoder.activation")
    lookup(BIASES, biases, "encoder.biases")
    lookup(DROP_PATHS, drop_path_form, "encoder.drop_path_form")
    lookup(STANDARDISATIONS, stem_standardise, "encoder.stem_standardise")
    if attention is not None:
        lookup(IMPLEMENTATIONS, attention, "encoder.attention")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    form = Form(
        size.mlp,
        size.heads,
        activation,
        biases,
        qk_norm,
        norm_eps,
        layer_scale,
        compute,
        attention,
    )
    network = ViT(
        size,
        patch,
        form,
        pool,
        positions,
        class_position,
        resample,
        registers,
        prefix_norm,
        local_norm_below,
        stem,
        stem_standardise,
        mask_token,
        dropout,
        drop_path,
        drop_path_form,
        scan,
        remat,
    )
    return Encoder(
        name=f"vit {variant}",
        width=size.width * (2 if pool == "cls_gap" else 1),
        stride=patch,
        layers=block_names(size.depth),
        network=network,
        macs=lambda image_size: _macs(network, image_size),
        prefix=prefix_tokens(network),
        keeps=positions != "rotary",
        packs=positions != "rotary" and stem is None and pool != "map" and not local_norm_below,
        attends=tuple((block, prefix_tokens(network)) for block in block_names(size.depth)),
        attention=lambda variables, images, names: network.apply(
            {"params": variables["params"]}, images, attend=tuple(names)
        ),
    )


def has_class(pool):
    return pool in ("cls", "cls_gap")


def prefix_tokens(network):
    """How many tokens stand before the patches."""
    return int(has_class(network.pool)) + network.registers


def _check_numbers(size, registers, rates):
    check_size(size)
    if not isinstance(registers, int) or registers < 0:
        raise ValueError(f"encoder.registers={registers!r}: expected a whole number from 0 up")
    check_rates(**rates)


def _macs(network, image_size):
    """Multiply-adds of one image: embedding, projections, MLP, attention; norms are left out."""
    D, L, M, _ = network.size
    patches = (image_size // network.patch) ** 2
    N = patches + prefix_tokens(network)
    layers = 3 if network.form.activation == "swiglu" else 2
    block = N * (4 * D * D + layers * D * M) + 2 * N * N * D
    pool = 0
    if network.pool == "map":
        pool = 2 * N * D * D + 2 * N * D + 2 * D * D + layers * D * M
    inputs = network.patch**2 * 3
    stem = 0
    if network.stem is not None:
        stem = stem_macs(image_size, network.stem, 64)
        inputs = ResNetStem(network.stem).channels
    return stem + patches * inputs * D + L * block + pool
