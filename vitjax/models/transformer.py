"""The parts of a pre-norm transformer: the block, and pooling by attention."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from vitjax.models.attention import MultiHeadAttention
from vitjax.models.layers import MLP, add_to_subset, drop_path, layer_norm, layer_scale
from vitjax.models.packing import segments
from vitjax.ops.batch import keep_batch_sharded

# B batch, N tokens, D width.


class Form(NamedTuple):
    """What every block of one network has in common; see `vit.create` for the settings."""

    mlp: int
    heads: int
    activation: str
    biases: str
    qk_norm: bool
    norm_eps: float
    layer_scale: float | None
    dtype: Any
    attention: str | None = None


class Block(nn.Module):
    """Pre-norm transformer block (arXiv:2010.11929, eq. 2-3).

    grid: see MultiHeadAttention. lengths: tokens of each of the parts of x, where these attend to
    themselves alone. subset: share of the batch that each branch leaves out in
    training, see layers.add_to_subset.
    """

    form: Form
    grid: tuple[int, int] | None = None
    lengths: tuple[int, ...] | None = None
    dropout: float = 0.0
    subset: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x, rate=None):
        """x: [B, N, D]. rate: of stochastic depth, a float32 scalar; None for none."""
        form = self.form
        norm = {"dtype": form.dtype, "eps": form.norm_eps}
        mlp = MLP(form.mlp, form.activation, self.dropout, self.train, form.dtype, name="mlp")

        def scaled(branch, name):
            branch = nn.Dropout(self.dropout, deterministic=not self.train)(branch)
            if form.layer_scale is None:
                return branch
            return layer_scale(self, branch, form.layer_scale, name)

        def attend(x):
            return scaled(self.attend(layer_norm(x, name="norm1", **norm)), "layer_scale1")

        def transform(x):
            return scaled(mlp(layer_norm(x, name="norm2", **norm)), "layer_scale2")

        for branch in (attend, transform):
            if self.subset and self.train:
                x = add_to_subset(branch, x, self.subset, self.make_rng("dropout"))
            elif rate is not None:
                x = x + drop_path(branch(x), rate, self.make_rng("dropout"))
            else:
                x = x + branch(x)
        return keep_batch_sharded(x)

    def attend(self, x):
        """What is attended to, of normed tokens [B, N, D]."""
        apart = None if self.lengths is None else segments(self.lengths, x.shape[0])
        return attention_of(self.form, self.grid, name="attention")(x, segments=apart)


def attention_of(form, grid, **place):
    """The attention of a block; place: Linen's name= or parent=."""
    return MultiHeadAttention(
        form.heads,
        form.biases,
        form.qk_norm,
        form.norm_eps,
        grid,
        form.dtype,
        form.attention,
        **place,
    )


def weights_of(attention, params, x, norm_eps):
    """Attention weights of one block, [B, H, N, N] float32.

    attention: its module, of float32 arithmetic and without a parent: called with weights=True.
    params: of the block. x: [B, N, D], what enters it. The kernels of attention never hold the
    weights: queries and keys are made again.
    """
    norm = nn.LayerNorm(epsilon=norm_eps, parent=None)
    y = norm.apply({"params": params["norm1"]}, x.astype(jnp.float32))
    return attention.apply({"params": params["attention"]}, y, weights=True)


class AttentionPool(nn.Module):
    """Multi-head attention pooling by one learned query (arXiv:2106.04560, sec. 3.2)."""

    form: Form

    @nn.compact
    def __call__(self, tokens):  # [B, N, D] -> [B, D]
        form = self.form
        shape = (1, 1, tokens.shape[-1])
        probe = self.param("probe", nn.initializers.xavier_uniform(), shape)
        probe = jnp.broadcast_to(probe.astype(form.dtype), (tokens.shape[0], *shape[1:]))
        attention = MultiHeadAttention(form.heads, dtype=form.dtype, name="attention")
        x = attention(probe, tokens)
        y = layer_norm(x, dtype=form.dtype, name="norm", eps=form.norm_eps)
        x = x + MLP(form.mlp, form.activation, dtype=form.dtype, name="mlp")(y)
        return x[:, 0]
