"""Heads on pooled features, as pairs of pure functions."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.models.precision import DTYPES

# B batch, D width of the features, C classes.


class Classifier(nn.Module):
    """A linear classifier, or with `hidden` a tanh layer of that width before it (big_vision's
    pre-logits). The last kernel starts at zero, so the first logits are `bias` everywhere."""

    classes: int
    hidden: int = 0
    bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled):  # [B, D]
        x = pooled
        if self.hidden:
            x = nn.tanh(nn.Dense(self.hidden, dtype=self.dtype, name="pre_logits")(x))
        last = nn.Dense(
            self.classes,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.bias),
            dtype=self.dtype,
            name="logits",
        )
        return last(x).astype(jnp.float32)  # [B, C]


@dataclass(frozen=True)
class Head:
    """init(key) -> params; apply(params, pooled [B, D]) -> [B, C] float32."""

    network: nn.Module
    width: int

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, self.width), jnp.float32))["params"]

    def apply(self, params, pooled):
        return self.network.apply({"params": params}, pooled)


def classifier(width, classes, hidden=0, bias=0.0, dtype="float32"):
    """A classifier of `width` features into `classes` logits. Returns a Head.

    hidden: width of a tanh layer before the logits, 0 for none. bias: initial value of the last
    bias (-log(classes) makes a sigmoid loss start small). dtype: of the arithmetic; parameters and
    logits are float32.
    """
    network = Classifier(classes, hidden, bias, lookup(DTYPES, dtype, "dtype"))
    return Head(network, width)
