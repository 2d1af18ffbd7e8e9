"""Activations stay where the batch is, on any mesh or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.ops.batch import keep_batch_sharded


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


@pytest.mark.parametrize(
    ("shape", "names", "spec"),
    [
        ((2, 4), ("replica", "data"), P(("replica", "data"))),
        ((2, 2, 2), ("replica", "data", "model"), P(("replica", "data"))),
        ((8,), ("data",), P("data")),
    ],
)
def test_the_batch_comes_back_from_a_width_sharded_layer(shape, names, spec):
    mesh = mesh_of(shape, names)
    moved = jax.device_put(
        np.ones((8, 3, 16), np.float32), NamedSharding(mesh, P(None, None, "data"))
    )
    with jax.set_mesh(mesh):
        out = jax.jit(lambda x: keep_batch_sharded(x * 2.0))(moved)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, spec), out.ndim)


def test_the_width_is_whole_between_blocks():
    mesh = mesh_of((4, 2), ("data", "model"))
    x = jax.device_put(np.ones((8, 6), np.float32), NamedSharding(mesh, P("data", "model")))
    with jax.set_mesh(mesh):
        out = jax.jit(keep_batch_sharded)(x)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 2)


def test_nothing_happens_without_a_mesh_or_on_a_mesh_of_other_names():
    x = jnp.ones((8, 3))
    assert keep_batch_sharded(x) is x
    with jax.set_mesh(mesh_of((8,), ("rows",))):
        assert keep_batch_sharded(x) is x
    with jax.set_mesh(mesh_of((8,), ("data",), AxisType.Explicit)):
        assert keep_batch_sharded(x) is x
    with jax.set_mesh(mesh_of((8,), ("data",))):
        one_image = jnp.ones((1, 3))
        assert keep_batch_sharded(one_image) is one_image


def test_inside_shard_map_the_batch_is_already_in_place():
    with jax.set_mesh(mesh_of((8,), ("data",))):
        f = jax.shard_map(
            lambda x: keep_batch_sharded(x) * 2.0, in_specs=P("data"), out_specs=P("data")
        )
        np.testing.assert_array_equal(jax.jit(f)(jnp.ones((64, 3))), 2.0)
