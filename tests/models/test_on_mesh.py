"""Every encoder on eight devices, its parameters cut by the rules: the numbers of one device."""

import jax
import numpy as np
import pytest
from test_encoders import COATNET, CONVIT, CONVNEXT, MODERN, RESNET, VIT

from vitjax import models
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules

CASES = [
    ("vit", VIT | MODERN),
    ("resnet", RESNET | {"width": 0.5, "norm": "group"}),
    ("bit", {"variant": "R26x1", "depths": (1, 2), "width": 32}),
    ("bit", {"variant": "R26x1", "depths": (1, 2), "width": 32, "form": "postact"}),
    ("convnext", CONVNEXT | {"variant": "V2-T"}),
    ("coatnet", COATNET),
    ("convit", CONVIT),
    ("mixer", {"variant": "B/8", "width": 12, "depth": 3, "token_mlp": 6, "channel_mlp": 10}),
    ("classic", {"variant": "convpool"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[name for name, _ in CASES])
def test_a_mesh_of_eight_gives_the_numbers_of_one_device(name, settings, fill):
    """In training: features, statistics of batch norms, and the gradient of every parameter."""
    encoder = models.create(name, **settings)
    variables = fill(encoder, 32)
    images = np.random.RandomState(0).normal(size=(8, 32, 32, 3)).astype(np.float32)

    def loss(variables, images):
        features, stats = encoder.apply(variables, images, train=True, key=jax.random.key(0))
        return (features.pooled**2).mean(), (features.pooled, features.patches, stats)

    run = jax.grad(loss, has_aux=True)
    want = jax.jit(run)(variables, images)
    mesh = mesh_lib.make_mesh(replica=2, data=2, model=2, devices=jax.devices())
    placed = rules.shardings(variables, mesh, min_size=0)
    cut = {axis for leaf in jax.tree.leaves(placed) for axis in leaf.spec if axis is not None}
    assert cut == {"data", "model"}
    with jax.set_mesh(mesh):
        batch = jax.device_put(images, jax.NamedSharding(mesh, mesh_lib.BATCH))
        got = jax.jit(run)(jax.device_put(variables, placed), batch)
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        # Rounding that a ReLU or a norm makes larger stays below; a wrong sum is off by a half.
        difference = np.linalg.norm(np.asarray(mine) - np.asarray(theirs))
        assert difference <= 0.02 * np.linalg.norm(theirs) + 1e-7, jax.tree_util.keystr(path)
