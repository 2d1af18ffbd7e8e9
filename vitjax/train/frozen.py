"""The frozen encoder of a run, as the evaluators ask for it."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from vitjax.evaluators.features import Inside
from vitjax.models.features import Encoder
from vitjax.objectives import Objective
from vitjax.sharding import mesh as mesh_lib
from vitjax.train.state import State

LAST = 4  # blocks whose image vectors a linear probe may read (arXiv:2304.07193, sec. 7.1)


class FrozenEncoder(NamedTuple):
    """Jitted functions of global arrays, all float32 but the images.

    encode(fields)(params, extra, batch) -> {"pooled": [B, D], and of evaluators.features.FIELDS
    those named: "logits" [B, C] (where the objective has classes), "layers" (tuple of [B, D_l],
    last block first), "patch_mean" [B, D]}. encode(fields, probe_seed) encodes the augmented views
    that a probe is trained on instead of the evaluation crop.
    crop(batch) -> the evaluation crop before it is normalised, see augment.eval_crop.
    look(params, extra, images [B, S, S, 3] float32 in 0..255) -> (pooled [B, D], patches
    [B, h, w, D]). measure(function)(params, extra, arrays) -> function(Inside, *arrays), the first
    of the arrays [B, ...] being images in 0..255.
    """

    encode: Callable
    crop: Callable
    look: Callable
    measure: Callable


def frozen_encoder(
    encoder: Encoder, objective: Objective, views: Mapping, placed: State, mesh: Mesh
) -> FrozenEncoder:
    """views: of setup.make_views. placed: the shardings of the state."""
    batch = NamedSharding(mesh, mesh_lib.BATCH)
    weights = (placed.params, placed.extra)

    def encode(params, extra, batch, fields, probe_seed):
        variables = objective.encoder_variables(params, extra)
        layers = encoder.layers[-LAST:][::-1] if "layers" in fields else ()
        if probe_seed is None:
            images = views["eval"](batch)["image"]
        else:
            images = views["probe"](batch, jax.random.key(probe_seed))["image"]
        features, _ = encoder.apply(variables, images, layers=layers)
        out = {"pooled": features.pooled}
        if "layers" in fields:
            out["layers"] = tuple(features.vectors[n] for n in layers) or (features.pooled,)
        if "patch_mean" in fields:
            out["patch_mean"] = features.patches.mean(axis=(1, 2))
        if "logits" in fields and objective.classify is not None:
            out["logits"] = objective.classify(params, extra, features.pooled)
        return jax.tree.map(lambda rows: rows.astype(jnp.float32), out)

    def look(params, extra, images):
        variables = objective.encoder_variables(params, extra)
        features, _ = encoder.apply(variables, views["cropped"](images))
        return features.pooled.astype(jnp.float32), features.patches.astype(jnp.float32)

    @functools.cache
    def measure(function):
        def run(params, extra, arrays):
            variables = objective.encoder_variables(params, extra)

            def features(images, layers=()):
                found, _ = encoder.apply(variables, views["cropped"](images), layers=layers)
                return jax.tree.map(lambda rows: rows.astype(jnp.float32), found)

            def attention(images, names):
                return encoder.attention(variables, views["cropped"](images), names)

            asked = attention if encoder.attends else None
            return function(Inside(encoder.layers, encoder.attends, features, asked), *arrays)

        return jax.jit(run, in_shardings=(*weights, batch))

    @functools.cache
    def encode_fields(fields, probe_seed=None):
        encode_some = functools.partial(encode, fields=fields, probe_seed=probe_seed)
        return jax.jit(encode_some, in_shardings=(*weights, batch))

    return FrozenEncoder(
        encode_fields,
        jax.jit(views["crop"], in_shardings=batch),
        jax.jit(look, in_shardings=(*weights, batch)),
        measure,
    )
