"""Where parameters go on the mesh, by name."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(replica=2, data=2, model=2)


def spec(path, shape, mesh, **settings):
    return rules.spec(path, shape, mesh, min_size=0, **settings)


def test_attention_is_cut_by_heads_and_the_mlp_by_hidden_units(mesh):
    assert spec("blocks/attention/query/kernel", (3, 16, 4, 8), mesh, fsdp=False) == P(
        None, None, "model", None
    )
    assert spec("blocks/attention/out/kernel", (3, 4, 8, 16), mesh, fsdp=False) == P(
        None, "model", None, None
    )
    assert spec("blocks/mlp/up/kernel", (3, 16, 64), mesh, fsdp=False) == P(None, None, "model")
    assert spec("blocks/mlp/down/kernel", (3, 64, 16), mesh, fsdp=False) == P(None, "model", None)


def test_fsdp_cuts_the_largest_dimension_that_is_still_whole_and_never_the_layers(mesh):
    assert spec("blocks/mlp/up/kernel", (64, 16, 32), mesh) == P(None, "data", "model")
    assert spec("blocks/norm/scale", (64, 16), mesh) == P(None, "data")
    assert spec("norm/scale", (64, 16), mesh) == P("data", None)


def test_what_does_not_divide_or_is_small_stays_whole(mesh):
    assert spec("blocks/attention/query/kernel", (2, 15, 3, 7), mesh) == P(None, None, None, None)
    assert rules.spec("head/kernel", (16, 9), mesh, min_size=1000) == P(None, None)


def test_optimizer_moments_go_where_their_parameter_goes(mesh):
    shape = (3, 16, 4, 8)
    assert spec("opt/0/mu/encoder/blocks/attention/query/kernel", shape, mesh) == spec(
        "params/encoder/blocks/attention/query/kernel", shape, mesh
    )


def test_own_rules_come_first_and_every_array_is_matched(mesh):
    tree = {"head": {"kernel": jax.ShapeDtypeStruct((16, 8), jnp.float32)}}
    got = rules.shardings(tree, mesh, rules=(("head/kernel$", ("model", None)),), min_size=0)
    assert got["head"]["kernel"].spec == P("model", "data")
    with pytest.raises(ValueError, match=r"mesh axis 'modle'"):
        rules.shardings(tree, mesh, rules=(("head", ("modle",)),))
    with pytest.raises(ValueError, match="no sharding rule matches 'head/kernel'"):
        rules.spec("head/kernel", (16, 8), mesh, rules=(("body", ()),))
    with pytest.raises(ValueError, match="parameters='zero' is unknown"):
        rules.shardings(tree, mesh, parameters="zero")
