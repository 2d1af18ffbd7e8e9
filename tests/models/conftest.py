"""Random variables without compiling an initialiser: only shapes come from the encoder."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def fill():
    """fill(encoder, image_size, seed=0) -> variables with every parameter away from its default."""

    def fill(encoder, image_size, seed=0):
        shapes = jax.eval_shape(lambda key: encoder.init(key, image_size), jax.random.key(0))
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            value = rng.normal(size=leaf.shape).astype(leaf.dtype)
            if path[-1].key in ("scale", "var"):
                return 1 + 0.2 * np.tanh(value)
            if path[-1].key == "kernel":
                return value / np.sqrt(np.prod(leaf.shape[-3:-1])).astype(leaf.dtype)
            return 0.3 * value

        drawn = jax.tree_util.tree_map_with_path(draw, shapes)
        return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, "float32"), drawn)

    return fill
