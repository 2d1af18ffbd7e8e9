"""Attention within encoders: the parameters of flax's layers, and any implementation beneath."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from test_encoders import COATNET, CONVIT, VIT

from vitjax import models
from vitjax.models.attention import HeadsDense
from vitjax.ops import quadratic


@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (3, 4)), ((3, 4), (5,))])
def test_a_projection_is_flaxs_dense_general_from_its_first_values_on(inputs, outputs):
    x = np.random.default_rng(0).normal(size=(2, 7, *inputs)).astype(np.float32)
    theirs = nn.DenseGeneral(
        outputs if len(outputs) > 1 else outputs[0],
        axis=tuple(range(-len(inputs), 0)),
        kernel_init=nn.initializers.xavier_uniform(),
    )
    want, params = theirs.init_with_output(jax.random.key(1), x)
    ours = HeadsDense(inputs, outputs)
    got, mine = ours.init_with_output(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, mine, params)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit", VIT),
        ("convit", CONVIT | {"depth": 2, "local": 1}),
        pytest.param("coatnet", COATNET | {"depths": (1, 1, 1, 1)}, marks=pytest.mark.slow),
    ],
)
def test_the_kernel_gives_an_encoder_the_numbers_of_the_reference(name, settings, fill):
    """On a CPU the kernel is interpreted."""
    plain = models.create(name, **settings)
    variables = fill(plain, 32)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    found = {}
    for attention in ("reference", "flash"):
        encoder = models.create(name, **settings, attention=attention)

        def loss(params, encoder=encoder):
            return (encoder.apply(variables | {"params": params}, images)[0].pooled ** 2).sum()

        traced = jax.jit(jax.value_and_grad(loss)).trace(variables["params"])
        assert ("pallas_call" in str(traced.jaxpr)) == (attention == "flash")
        found[attention] = traced.lower().compile()(variables["params"])
    for got, want in zip(*map(jax.tree.leaves, (found["flash"], found["reference"])), strict=True):
        assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want) + 1e-6


def test_an_implementation_nobody_knows_is_refused_by_its_key():
    for name, settings in (("vit", VIT), ("coatnet", COATNET), ("convit", CONVIT)):
        with pytest.raises(ValueError, match=r"encoder.attention.*flsh"):
            models.create(name, **settings, attention="flsh")


def test_a_whole_network_of_convolutions_is_one_of_attention(fill):
    """Both convolutions of the tutorials' network replaced: ReLU, pools and units stay."""
    encoder = models.create("classic", variant="convpool")
    variables = fill(encoder, 12)
    params = variables["params"]
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    want = jax.jit(encoder.apply)(variables, x)[0]
    attend = jax.jit(partial(quadratic.attend, padding=1))
    for name in ("conv1", "conv2"):
        layer = quadratic.init_as_convolution(params[name]["kernel"], params[name]["bias"])
        x = jax.nn.relu(attend(layer, x))
        x = x.reshape(2, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))
    assert np.abs(x - want.patches).max() < 1e-5 * np.abs(want.patches).max()
    dense = params["dense"]
    pooled = jax.nn.relu(x.reshape(2, -1) @ dense["kernel"] + dense["bias"][None])
    assert np.abs(pooled - want.pooled).max() < 1e-5 * np.abs(want.pooled).max()
