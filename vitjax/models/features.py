"""The contract between encoders and everything else: what goes in, what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.lookup import lookup

# B batch, h x w grid of patches, N tokens, D width.


NOISE = ("dropout", "drop_path")  # fields of a network that are rates of what it draws


class Features(NamedTuple):
    """What every encoder gives, in its compute dtype.

    pooled: [B, D], one vector per image, what the head reads. patches: [B, h, w, D], the last map
    (a transformer's patch tokens after the last norm, a ConvNet's last feature map); its D is
    another where the head reads more than the map's mean (class token and mean, a hidden layer).
    layers: {name: [B, h, w, D_l]}, the named intermediate maps that were asked for; vectors:
    {name: [B, D_l]}, one per image of each: a transformer's class token (without one, the mean of
    the patches) after the last norm, as DINOv2 has it, a ConvNet's mean of the map. tokens:
    [B, N, D], all tokens after the last norm, prefix tokens first; for a ConvNet the patches,
    flattened.
    """

    pooled: jax.Array
    patches: jax.Array
    layers: dict[str, jax.Array]
    vectors: dict[str, jax.Array]
    tokens: jax.Array


class Shape(NamedTuple):
    """What an encoder makes of images of one size: numbers in `pooled` and in each of `patches`,
    h x w patches, the name of their dtype."""

    pooled: int
    patches: int
    grid: tuple[int, int]
    dtype: str


@dataclass(frozen=True)
class Encoder:
    """An image encoder as a pair of pure functions.

    name: for people, as "vit S/16". width: D of `Features.pooled`. stride: pixels per side of a
    patch of `Features.patches`. layers: names valid for `apply(layers=)`. network: the Linen
    module, which stays behind this class: __call__(images, train, mask, layers) -> Features, with
    the rng "dropout" and the collections "params" and "batch_stats". macs(image_size):
    multiply-adds of one forward pass of one image, without head. prefix: how many of
    `Features.tokens` stand before the patches. keeps: whether `apply` takes kept=. packs: whether
    there is an `apply_packed`.
    attends: (name, tokens before the patches) of each block with attention, first to last; none for
    an encoder without. attention(variables, images, names) -> {name: float32 [B, heads, N, N]},
    what each token of these blocks takes from each (rows sum to 1); the patches are the last h * w
    of the N. Under jax.jit only what is used of it is held.
    """

    name: str
    width: int
    stride: int
    layers: tuple[str, ...]
    network: nn.Module
    macs: Callable[[int], int] = field(compare=False)
    prefix: int = 0
    keeps: bool = False
    packs: bool = False
    attends: tuple[tuple[str, int], ...] = ()
    attention: Callable | None = field(default=None, compare=False)

    def init(self, key, image_size=224):
        """Fresh {"params", "stats"}, plain nested dicts; {} where there are none.

        Call it under jax.jit or jax.eval_shape: the forward pass of one image that shapes the
        parameters is then dead code. Raises ValueError for an image size the encoder cannot take.
        """
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        variables = self.network.init(key, images)
        return {
            "params": variables.get("params", {}),
            "stats": variables.get("batch_stats", {}),
        }

    def shape(self, image_size) -> Shape:
        """Nothing is computed. Raises ValueError for an image size the encoder cannot take."""

        def features(key):
            images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
            return self.apply(self.init(key, image_size), images)[0]

        out = jax.eval_shape(features, jax.random.key(0))
        _, h, w, width = out.patches.shape
        return Shape(out.pooled.shape[-1], width, (h, w), out.pooled.dtype.name)

    def still(self):
        """The same encoder without dropout and stochastic depth: in training it draws nothing, and
        BatchNorm still takes its statistics from the batch. For teachers."""
        rates = {name: 0.0 for name in NOISE if hasattr(self.network, name)}
        return replace(self, network=self.network.clone(**rates))

    def apply(self, variables, images, train=False, key=None, mask=None, layers=(), kept=None):
        """Encode images. Returns (Features, stats); stats change only in training.

        images: [B, H, W, 3] float, normalised. key: for dropout and stochastic depth in training.
        mask: [B, h, w] bool on the grid of `Features.patches`, True where a patch is hidden: a
        learned token stands there before the first block (ConvNets: in the output of the stem,
        see layers.hide). layers: names out of `self.layers`. kept: int32 [B, n], the only patches
        that are encoded, by their number in the grid; `patches` and maps are then [B, n, 1, D].
        Raises ValueError for unknown layers, for a mask without a mask token, for a missing key,
        and for an image size that does not fit.
        """
        for layer in layers:
            lookup(dict.fromkeys(self.layers), layer, "a name in layers=")
        if kept is not None and not self.keeps:
            raise ValueError(f"encoder.name {self.name} cannot encode a part of the patches alone")
        collections: dict[str, Any] = {"params": variables["params"]}
        if variables["stats"]:
            collections["batch_stats"] = variables["stats"]
        features, updated = self.network.apply(
            collections,
            images,
            train=train,
            mask=mask,
            layers=tuple(layers),
            **({} if kept is None else {"kept": kept}),
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats"] if train else [],
        )
        return features, updated.get("batch_stats", variables["stats"])

    def apply_packed(self, variables, images, train=False, key=None, mask=None):
        """Encode crops of several sizes of each image in one sequence of tokens.

        images: a tuple of [B, k, H, W, 3]. mask: bool [B, k, h, w] for the crops of the first
        member. Returns (a tuple of Features, of B * k crops each; stats): the numbers of `apply`
        on each member, where nothing is drawn. Raises ValueError where the encoder cannot.
        """
        if not self.packs:
            raise ValueError(
                f"encoder.name {self.name} cannot pack crops into one sequence: set "
                "objective.packed to False, or use a vit with a table of positions"
            )
        if mask is not None:
            side = self.stride
            others = sum(
                x.shape[1] * (x.shape[2] // side) * (x.shape[3] // side) for x in images[1:]
            )
            seen = jnp.zeros((mask.shape[0], others), bool)
            mask = jnp.concatenate([mask.reshape(mask.shape[0], -1), seen], axis=1)
        features = self.network.apply(
            {"params": variables["params"]},
            tuple(images),
            train=train,
            mask=mask,
            rngs=None if key is None else {"dropout": key},
        )
        return features, variables["stats"]
