"""Keep activations where the batch is."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("replica", "data")


def keep_batch_sharded(x):
    """Cut the leading dimension of x over the batch axes of the ambient mesh, and nothing else.

    x: [B, ...], on the mesh of `jax.set_mesh`. This is Megatron's residual stream
    (arXiv:1909.08053): whole over `model` between blocks. Returns x unchanged without a mesh, when
    the mesh has none of BATCH_AXES (or they are not Auto, as inside shard_map), and when they do
    not divide B (one image at initialisation).
    Without this the compiler may move the batch onto a width that a parameter shards. With the
    other dimensions left to it, XLA doubles gradients of norms in a ResNet on a 2 x 2 x 2 mesh
    (jax 0.10.2 and 0.12.0, CPU; test_step holds the case).
    """
    axes = _batch_axes(x)
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes else x


def on_batch_shards(function, x, *whole):
    """function(x, *whole) for each device's part of the batch, `whole` being on every device.

    x: [B, ...], on the mesh of `jax.set_mesh`; where `keep_batch_sharded` does nothing, this is the
    plain call. For what XLA does not cut rightly by itself: the gradient of a depth-wise
    convolution's kernel comes out `model` times as large on a mesh with that axis (jax 0.10.2 and
    0.12.0, CPU; test_on_mesh holds the case).
    """
    axes = _batch_axes(x)
    if not axes:
        return function(x, *whole)
    specs = (P(axes), *(P() for _ in whole))
    return jax.shard_map(function, in_specs=specs, out_specs=P(axes))(x, *whole)


def _batch_axes(x):
    """The axes of the ambient mesh that cut the batch; none where they cannot."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
    return () if x.shape[0] % math.prod(mesh.shape[name] for name in axes) else axes
