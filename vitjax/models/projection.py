"""Heads of self-supervised learning: on prototypes (DINO, iBOT), and for contrast (SimCLR)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.models.heads import Head
from vitjax.models.precision import DTYPES
from vitjax.ops.batch import keep_batch_sharded, keep_logits_sharded, keep_prototypes_sharded

# n rows, D width, b bottleneck, K prototypes.

KERNEL_INIT = nn.initializers.truncated_normal(0.02)
LAST_LAYERS = {
    "scaled": "prototypes of unit length times a learned scale each, 1 at the start (DINOv2)",
    "unit": "prototypes of unit length (DINO's norm_last_layer)",
    "plain": "a linear layer without bias (DINOv3)",
}


class Prototypes(nn.Module):
    """Likeness of unit vectors to each of K prototypes, which are cut over the mesh.

    Parameters: kernel [b, K], with last_layer="scaled" also scale [K].
    """

    prototypes: int
    last_layer: str
    dtype: Any

    @nn.compact
    def __call__(self, z):  # [n, b] -> float32 [n, K]
        kernel = self.param("kernel", KERNEL_INIT, (z.shape[-1], self.prototypes))
        kernel = keep_prototypes_sharded(kernel)
        if self.last_layer != "plain":
            square = jnp.sum(jnp.square(kernel), axis=0, keepdims=True)
            kernel = kernel * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        if self.last_layer == "scaled":
            kernel = kernel * self.param("scale", nn.initializers.ones, (self.prototypes,))[None, :]
        kernel = keep_prototypes_sharded(kernel.astype(self.dtype))
        logits = jnp.einsum("nb,bk->nk", z, kernel, preferred_element_type=jnp.float32)
        return keep_logits_sharded(logits)


class PrototypeHead(nn.Module):
    """MLP with exact GELUs, a bottleneck divided by its length, prototypes (arXiv:2104.14294,
    appendix C). layers: linear ones up to the bottleneck, that one counted."""

    prototypes: int
    bottleneck: int
    hidden: int
    layers: int
    last_layer: str
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [n, D] -> float32 [n, K]
        def dense(features, name):
            return nn.Dense(features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)

        x = x.astype(self.dtype)
        for layer in range(self.layers - 1):
            x = keep_batch_sharded(dense(self.hidden, f"hidden_{layer}")(x))
            x = nn.gelu(x, approximate=False)
        z = keep_batch_sharded(dense(self.bottleneck, "bottleneck")(x)).astype(jnp.float32)
        square = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
        z = (z * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(self.dtype)
        return Prototypes(self.prototypes, self.last_layer, self.dtype, name="prototypes")(z)


def prototype_head(
    width, prototypes, *, bottleneck=256, hidden=2048, layers=3, last_layer="scaled", dtype
) -> Head:
    """A head of features [n, width] on `prototypes` logits. last_layer: a name in LAST_LAYERS.
    dtype: name of the arithmetic's type; parameters and logits are float32. Raises ValueError."""
    numbers = {"prototypes": prototypes, "head_bottleneck": bottleneck, "head_hidden": hidden}
    for key, n in (numbers | {"head_layers": layers}).items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"objective.{key}={n!r}: expected a whole number above 0")
    lookup(LAST_LAYERS, last_layer, "objective.last_layer")
    compute = lookup(DTYPES, dtype, "dtype")
    return Head(PrototypeHead(prototypes, bottleneck, hidden, layers, last_layer, compute), width)


class ContrastiveHead(nn.Module):
    """hidden -> norm -> ReLU, `layers` - 1 times, then a linear layer (arXiv:2002.05709, sec. 2.1).

    The norm is over features (LayerNorm), so that a row depends on no other: its code has
    BatchNorm there.
    """

    features: int
    hidden: int
    layers: int
    dtype: Any

    @nn.compact
    def __call__(self, x):  # [n, D] -> float32 [n, features]
        x = x.astype(self.dtype)
        for layer in range(self.layers - 1):
            x = keep_batch_sharded(
                nn.Dense(self.hidden, dtype=self.dtype, name=f"hidden_{layer}")(x)
            )
            x = nn.LayerNorm(name=f"norm_{layer}")(x.astype(jnp.float32))
            x = nn.relu(x).astype(self.dtype)
        return nn.Dense(self.features, dtype=self.dtype, name="out")(x).astype(jnp.float32)


def contrastive_head(width, *, features=128, hidden=2048, layers=2, dtype) -> Head:
    """A head of features [n, width] into `features` numbers to be compared. Raises ValueError."""
    for key, n in {"features": features, "hidden": hidden, "layers": layers}.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"objective.head_{key}={n!r}: expected a whole number above 0")
    return Head(ContrastiveHead(features, hidden, layers, lookup(DTYPES, dtype, "dtype")), width)
