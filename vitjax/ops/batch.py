"""Keep activations where the batch is."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("replica", "data")


def keep_batch_sharded(x):
    """Constrain the leading dimension of x to the batch axes of the ambient mesh.

    x: [B, ...]. The mesh is the one of `jax.set_mesh`; the other dimensions stay the compiler's
    choice. Returns x unchanged without a mesh, when the mesh has none of BATCH_AXES (or they are
    not Auto, as inside shard_map), and when they do not divide B (one image at initialisation).
    Without this the compiler may move the batch axis onto a width that a parameter shards.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
    if not axes or x.shape[0] % math.prod(mesh.shape[name] for name in axes):
        return x
    spec = P(axes, *[P.UNCONSTRAINED] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, spec)
