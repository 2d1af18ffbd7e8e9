"""Sizes that waste a chip are named with better ones."""

from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AbstractMesh

from vitjax import models
from vitjax.plan import advice
from vitjax.plan.topology import CHIPS
from vitjax.sharding import rules


def lines(variant, chip="v5e", batch=2048, mesh=(1, 16, 1), size=224, **encoder):
    sizes = dict(zip(("replica", "data", "model"), mesh, strict=True))
    encoder = models.create("vit", variant=variant, pool="cls", **encoder)
    init = lambda key: {"encoder": encoder.init(key)["params"]}  # noqa: E731
    params = jax.eval_shape(init, jax.random.key(0))
    recipe = SimpleNamespace(batch_size=batch, accumulate=1, views={"size": size}, sharding={})
    experiment = SimpleNamespace(
        mesh=SimpleNamespace(shape=sizes), encoder=encoder, target=SimpleNamespace(params=params)
    )
    return advice.advise(recipe, experiment, CHIPS[chip])


def test_sizes_that_fill_the_chip_are_not_named():
    assert lines("L/16") == []


def test_a_width_of_heads_is_named_with_the_heads_that_fill_the_lanes():
    (line,) = [line for line in lines("g/14") if "heads of 88" in line]
    assert "69% of 128 lanes" in line and "22 heads of 64 or 11 heads of 128" in line


def test_the_matrix_unit_of_another_chip_has_other_sides():
    # 1152 and 4304 are 9 and 33.6 of v5e's 128, 4.5 and 16.8 of v6e's 256.
    assert not any("1152" in line for line in lines("So400m/14"))
    (line,) = [line for line in lines("So400m/14", "v6e") if "a side of 1152" in line]
    assert "90% of the matrix unit's 256: nearest 1024 or 1280" in line


def test_too_few_images_are_named_with_a_batch_that_fills():
    (line,) = lines("L/16", batch=3 * 16)
    assert line.startswith("3 images of 197 tokens a device are 591 rows, which fill 92%")
    assert line.endswith("batch_size of 80 for 5 images")  # 985 of 1024; 4 are 788 of 896
    (line,) = lines("L/16", batch=8 * 16, size=192)  # 145 tokens: eight of them are too few as well
    assert line.endswith("batch_size of 176 for 11 images")
    (line,) = lines("L/16", batch=16, size=32)  # 1 image of 5 tokens
    assert line.startswith("1 images of 5 tokens a device are 5 rows, which fill 4%")


def test_parameters_that_are_cut_too_fine_are_named_with_a_coarser_mesh():
    (line,) = [line for line in lines("B/16", batch=4096, mesh=(1, 256, 1)) if "parts" in line]
    assert "mesh.replica=8, mesh.data=32" in line
    mesh = AbstractMesh((16, 16, 1), ("replica", "data", "model"))
    # Rows of the up projection: 768 / 16 = 48 is whole tiles, columns of 192 are not.
    spec = rules.spec("encoder/blocks/mlp/up/kernel", (12, 768, 3072), mesh)
    assert spec == jax.sharding.PartitionSpec(None, "data", None)


@pytest.mark.parametrize(("shape", "dim", "parts", "whole"), [((768, 3072), 0, 16, True)])
def test_tiles_are_8_by_128(shape, dim, parts, whole):
    assert rules.whole_tiles(shape, dim, parts) == whole
    assert not rules.whole_tiles((768, 3072), 1, 16) and rules.whole_tiles((768, 4096), 1, 32)
    assert rules.whole_tiles((3, 5, 7), 0, 3)  # in front of the tiles
