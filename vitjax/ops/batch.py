"""Keep activations where the batch is, and run on each device what XLA does not cut by itself."""

import math

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("replica", "data")
PROTOTYPE_AXES = ("data", "model")
HEAD_AXIS = "model"


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
    axes = _batch_axes(x.shape[0])
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes else x


def on_batch_shards(function, x, *whole):
    """function(x, *whole) for each device's part of the batch, `whole` being on every device.

    x: [B, ...] or a tree of such, on the mesh of `jax.set_mesh`; where `keep_batch_sharded` does
    nothing, this is the plain call. For what XLA does not cut rightly by itself: a loop over images
    would be one over all of them on every device, and the gradient of a depth-wise convolution's
    kernel comes out `model` times as large on a mesh with that axis (jax 0.10.2 and 0.12.0, CPU;
    test_on_mesh holds the case).
    """
    axes = _batch_axes(len(jax.tree.leaves(x)[0]))
    if not axes:
        return function(x, *whole)
    specs = (P(axes), *(P() for _ in whole))
    return jax.shard_map(function, in_specs=specs, out_specs=P(axes))(x, *whole)


def keep_prototypes_sharded(x):
    """Cut the last dimension of x, one entry per prototype, over `data` and `model`, and nothing
    else: a kernel of which each device holds its prototypes.

    x: [..., K]. Unchanged where `keep_batch_sharded` does nothing, or the axes do not divide K.
    """
    axes = _dividing(PROTOTYPE_AXES, x.shape[-1])
    return jax.lax.with_sharding_constraint(x, P(*(None,) * (x.ndim - 1), axes)) if axes else x


def keep_logits_sharded(x):
    """The logits of a kernel cut by `keep_prototypes_sharded`: a device's are those of its
    prototypes alone, of its replica's samples where `replica` divides B, else of all.

    x: [B, K]. What moves between devices is then the few numbers of a sample before the last
    layer, and sums over prototypes; never a row of logits. Unchanged where the kernel is.
    """
    samples, axes = _dividing(("replica",), x.shape[0]), _dividing(PROTOTYPE_AXES, x.shape[-1])
    return jax.lax.with_sharding_constraint(x, P(samples or None, axes)) if axes else x


def samples_of_device(batch: int) -> int:
    """How many samples of a batch a device of the ambient mesh holds."""
    automatic = _automatic_axes()
    return batch // math.prod(automatic[name] for name in _batch_axes(batch))


def on_shards(function, arrays, places, out, *, heads):
    """function(*arrays) for each device's part of the batch and of the heads.

    places, out: a letter per dimension of each array and of what comes out: "b" batch, "h" heads
    (or heads side by side), "." whole. arrays[0] begins with the batch. heads: their number.
    For kernels, which XLA does not cut at all. On a mesh whose axes do not divide batch or heads
    every device computes all of them; without a mesh of several devices, or inside another
    shard_map, this is the plain call.
    """
    automatic = _automatic_axes()
    if math.prod(automatic.values()) == 1:
        return function(*arrays)
    heads_cut = HEAD_AXIS in automatic and heads % automatic[HEAD_AXIS] == 0
    axes = {
        "b": _batch_axes(arrays[0].shape[0]) or None,
        "h": HEAD_AXIS if heads_cut else None,
        ".": None,
    }
    specs = tuple(P(*(axes[letter] for letter in place)) for place in (*places, out))
    # Kernels say nothing of how their outputs vary over the mesh, so it cannot be checked.
    return jax.shard_map(function, in_specs=specs[:-1], out_specs=specs[-1], check_vma=False)(
        *arrays
    )


def _automatic_axes():
    """{name: size} of the axes of the ambient mesh that XLA cuts over."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}


def _batch_axes(batch):
    """The axes of the ambient mesh that cut the batch; none where they cannot."""
    return _dividing(BATCH_AXES, batch)


def _dividing(names, size):
    """Those of the names that the ambient mesh has; none where they do not divide the size."""
    automatic = _automatic_axes()
    axes = tuple(name for name in names if name in automatic)
    return () if size % math.prod(automatic[name] for name in axes) else axes
