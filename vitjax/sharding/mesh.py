"""The mesh: which devices share the batch, and which share the parameters."""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# In order of growing traffic: between slices, within a slice (batch and FSDP), within a block
# (tensor).
AXES = ("replica", "data", "model")
BATCH = P(("replica", "data"))


def make_mesh(*, replica: int = 1, data: int = -1, model: int = 1, devices=None) -> Mesh:
    """Lay the devices out as [replica, data, model]; one axis may be -1: what the others leave.

    Where that is replica, data is the most: parameters are cut over so many devices, over fewer
    where a slice has fewer, and held as often as that leaves. So one config suits a laptop and a
    pod, over all of which a part would be less than a tile (plan.advice).

    Raises ValueError where the axes do not multiply to the number of devices, or replicas do not
    cover whole slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"replica": replica, "data": data, "model": model}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    asked = ", ".join(f"mesh.{name}={size}" for name, size in sizes.items())
    if len(free) > 1 or known < 1:
        raise ValueError(f"{asked}: every axis is at least 1, and one of them may be -1")
    if free == ["replica"]:
        within = max(1, len(devices) // (slices_of(devices) * model))
        sizes["data"] = max(n for n in range(1, min(data, within) + 1) if within % n == 0)
        known = sizes["data"] * model
    if free:
        sizes[free[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"{asked} does not cover {len(devices)} devices: change the mesh.* that is not 1"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return Mesh(lay_out(devices, tuple(sizes[name] for name in AXES)), AXES, axis_types=auto)


def slices_of(devices) -> int:
    """How many slices the devices are of; those that know of none are one."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def lay_out(devices, shape: tuple[int, int, int]) -> np.ndarray:
    """Devices as [replica, data, model], neighbours on the wires beside each other, and no part of
    a slice in one replica with a part of another. Raises ValueError where that cannot be."""
    # Where no side of the pod is as long as an axis, a part of one has to do.
    settings = {"devices": devices, "allow_split_physical_axes": True}
    slices = slices_of(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, **settings)
    replica, data, model = shape
    if replica % slices:
        raise ValueError(
            f"mesh.replica={replica} on {slices} slices, between which the network is slow: set "
            f"mesh.replica to {slices} or a multiple of it"
        )
    within = (replica // slices, data, model)
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), **settings)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the mesh cuts a batch."""
    return mesh.shape["replica"] * mesh.shape["data"]


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise ValueError unless each micro-batch divides evenly over the devices."""
    if batch_shards(mesh) % jax.process_count():
        raise ValueError(
            f"mesh replica x data = {batch_shards(mesh)} is not divisible by {jax.process_count()} "
            "processes: each reads its own rows, so mesh.model must stay inside a process"
        )
    parts = batch_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % parts:
        below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size={batch_size} is not divisible by {parts} (mesh replica x data = "
            f"{batch_shards(mesh)}, accumulate = {accumulate}): use {near}"
        )


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Rows that every process holds whole -> a global array, cut over replica and data."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def put_batch(batch: dict, mesh: Mesh) -> dict:
    """This process's rows -> global arrays, the leading axis cut over replica and data."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
