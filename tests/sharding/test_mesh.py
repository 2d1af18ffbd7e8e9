"""The mesh covers the devices, and the batch covers the mesh."""

import jax
import numpy as np
import pytest

from vitjax.sharding import mesh as mesh_lib


def test_one_axis_takes_what_the_others_leave():
    assert dict(mesh_lib.make_mesh(model=2).shape) == {"replica": 1, "data": 4, "model": 2}
    assert dict(mesh_lib.make_mesh(data=2, model=-1).shape) == {"replica": 1, "data": 2, "model": 4}
    one = mesh_lib.make_mesh(devices=jax.devices()[:1])
    assert dict(one.shape) == {"replica": 1, "data": 1, "model": 1}


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"data": -1, "model": -1}, {"model": 16}, {"model": 0}]
)
def test_a_mesh_that_does_not_cover_the_devices_is_refused(axes):
    with pytest.raises(ValueError, match=r"mesh\.replica=1"):
        mesh_lib.make_mesh(**axes)


def test_a_pod_holds_the_parameters_as_often_as_data_leaves():
    def shape(devices, **axes):
        return tuple(mesh_lib.make_mesh(replica=-1, devices=devices, **axes).shape.values())

    eight = jax.devices()[:8]
    assert shape(eight, data=4) == (2, 4, 1) and shape(eight, data=2, model=2) == (2, 2, 2)
    assert shape(eight, data=16) == (1, 8, 1) and shape(eight[:1], data=16) == (1, 1, 1)
    assert shape(eight[:6], data=4) == (2, 3, 1)  # the most that divides them
    slices = [Chip(index // 4, index % 4) for index in range(8)]
    assert shape(slices, data=16) == (2, 4, 1)  # never across slices


def test_a_batch_must_divide_over_the_mesh():
    mesh = mesh_lib.make_mesh()
    mesh_lib.check_batch(32, mesh, accumulate=4)
    with pytest.raises(ValueError, match=r"batch_size=20 is not divisible by 8 .* use 16 or 24"):
        mesh_lib.check_batch(20, mesh)
    with pytest.raises(ValueError, match=r"batch_size=8 is not divisible by 16 .* use 16"):
        mesh_lib.check_batch(8, mesh, accumulate=2)


def test_rows_keep_their_order_when_they_are_cut():
    rows = np.arange(16 * 3).reshape(16, 3)
    put = mesh_lib.put_batch({"x": rows}, mesh_lib.make_mesh(model=2))["x"]
    assert put.sharding.spec == mesh_lib.BATCH
    np.testing.assert_array_equal(put, rows)
    assert {shard.data.shape for shard in put.addressable_shards} == {(4, 3)}


class Chip:
    """One of two slices of 4 chips, in a row."""

    platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

    def __init__(self, slice_index, place):
        self.slice_index, self.coords, self.core_on_chip = slice_index, (place, 0, 0), 0
        self.id = 4 * slice_index + place


def test_replicas_are_whole_slices():
    chips = [Chip(slice_index, place) for place in range(4) for slice_index in (1, 0)]
    devices = mesh_lib.lay_out(chips, (2, 2, 2))
    assert {chip.slice_index for chip in devices[0].flat} == {0}
    assert {chip.slice_index for chip in devices[1].flat} == {1}
    assert [chip.slice_index for chip in mesh_lib.lay_out(chips, (4, 1, 2)).flat] == [0] * 4 + [
        1
    ] * 4
    with pytest.raises(ValueError, match=r"mesh\.replica=1 on 2 slices.*set mesh\.replica to 2"):
        mesh_lib.lay_out(chips, (1, 8, 1))
