"""Every encoder on eight devices, its parameters cut by the rules: the numbers of one device."""

import jax
import numpy as np
import pytest
from test_encoders import COATNET, CONVNEXT, MODERN, VIT

from vitjax import models
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules

CASES = [
    ("vit", VIT | MODERN),
    ("vit", {"variant": "R26+S/32", "width": 16, "depth": 1, "mlp": 8, "heads": 2}),
    ("bit", {"variant": "R26x1", "depths": (1, 2), "width": 32}),
    ("convnext", CONVNEXT | {"variant": "V2-T"}),
    ("coatnet", COATNET),
    ("mixer", {"variant": "B/8", "width": 12, "depth": 3, "token_mlp": 6, "channel_mlp": 10}),
    ("classic", {"variant": "convpool"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[name for name, _ in CASES])
def test_a_mesh_of_eight_gives_the_numbers_of_one_device(name, settings, fill):
    encoder = models.create(name, **settings)
    variables = fill(encoder, 32)
    images = np.random.RandomState(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    want = jax.jit(encoder.apply)(variables, images)[0]
    mesh = mesh_lib.make_mesh(replica=2, data=2, model=2, devices=jax.devices())
    placed = rules.shardings(variables, mesh, min_size=0)
    cut = {axis for leaf in jax.tree.leaves(placed) for axis in leaf.spec if axis is not None}
    assert cut == {"data", "model"}
    with jax.set_mesh(mesh):
        batch = jax.device_put(images, jax.NamedSharding(mesh, mesh_lib.BATCH))
        got = jax.jit(encoder.apply)(jax.device_put(variables, placed), batch)[0]
    for field in ("pooled", "patches"):
        np.testing.assert_allclose(getattr(got, field), getattr(want, field), rtol=2e-5, atol=2e-5)
