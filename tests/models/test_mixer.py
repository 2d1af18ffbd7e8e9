"""MLP-Mixer against its equations in NumPy, and the sizes the paper prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from scipy.special import erf
from traced import traced_macs

from vitjax.models import mixer
from vitjax.sharding import rules

TINY = {"variant": "S/4", "width": 10, "depth": 3, "token_mlp": 6, "channel_mlp": 14}
KEY = jax.random.key(0)


def tiny(**settings):
    return mixer.create(**(TINY | settings))


def images_of(batch, size, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


GELU = {
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    # arXiv:1606.08415, sec. 2
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("activation", GELU)
def test_forward_is_equation_1_in_float64(activation, fill):
    encoder = tiny(activation=activation)
    variables, images = fill(encoder, 12), 2 * images_of(2, 12)
    got = jax.jit(lambda v, x: encoder.apply(v, x, layers=encoder.layers)[0])(variables, images)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def mlp(x, p):
        hidden = GELU[activation](x @ p["up"]["kernel"] + p["up"]["bias"])
        return hidden @ p["down"]["kernel"] + p["down"]["bias"]

    x = images.reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 48)
    x = x @ p["embedding"]["kernel"].reshape(48, 10) + p["embedding"]["bias"]
    for layer, name in enumerate(encoder.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        across = np.swapaxes(norm(x, block["norm1"]), 1, 2)  # [B, D, N]
        x = x + np.swapaxes(mlp(across, block["token_mlp"]), 1, 2)
        x = x + mlp(norm(x, block["norm2"]), block["channel_mlp"])
        np.testing.assert_allclose(got.layers[name], x.reshape(2, 3, 3, 10), atol=2e-5)
        want = norm(x, p["norm"]).mean(1)
        np.testing.assert_allclose(got.vectors[name], want, atol=2e-5)
    np.testing.assert_allclose(got.tokens, norm(x, p["norm"]), atol=2e-5)
    np.testing.assert_array_equal(got.patches, got.tokens.reshape(2, 3, 3, 10))
    np.testing.assert_allclose(got.pooled, want, atol=2e-5)


def test_macs_are_those_of_the_traced_program():
    encoder = tiny()
    variables = jax.eval_shape(lambda key: encoder.init(key, 20), KEY)
    program = jax.make_jaxpr(encoder.apply)(variables, jnp.zeros((1, 20, 20, 3)))
    assert traced_macs(program.jaxpr) == encoder.macs(20)


def test_unrolled_is_scanned_is_rematerialised(fill):
    variables, images = fill(tiny(), 8), images_of(2, 8)

    def gradients(**settings):
        encoder = tiny(drop_path=0.3, **settings)

        def loss(params):
            variables = {"params": params, "stats": {}}
            return (encoder.apply(variables, images, train=True, key=KEY)[0].pooled ** 2).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    want = gradients()
    for settings in ({"scan": False}, {"remat": "dots"}):
        got = gradients(**settings)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_stochastic_depth_grows_from_0_at_the_first_block(fill):
    still, moving = tiny(), tiny(drop_path=0.9)
    variables, images = fill(still, 8), images_of(8, 8)

    def maps(encoder):
        apply = jax.jit(
            lambda v, x: encoder.apply(v, x, train=True, key=KEY, layers=encoder.layers)
        )
        return apply(variables, images)[0].layers

    want, got = maps(still), maps(moving)
    np.testing.assert_array_equal(got["block_00"], want["block_00"])
    change = np.asarray(got["block_02"] - got["block_01"])
    kept = np.abs(change).reshape(8, -1).max(1) > 0
    assert kept.any() and not kept.all()  # each of two branches stays with chance 0.1
    with pytest.raises(ValueError, match=r"^training with encoder.drop_path above 0 needs key="):
        moving.apply(variables, images, train=True)


def test_hidden_units_are_cut_over_the_model_axis():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    encoder = tiny(token_mlp=8, channel_mlp=16)
    shapes = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)["params"]
    placed = rules.shardings(shapes, mesh)
    for mlp in ("token_mlp", "channel_mlp"):
        assert placed["blocks"][mlp]["up"]["kernel"].spec[-1] == "model"
        assert placed["blocks"][mlp]["down"]["kernel"].spec[-2] == "model"


@pytest.mark.parametrize(
    ("size", "line"),
    [
        ((16, 16), "^image size 16x16 does not fit the token mixing made for 12x12: set .* to 12"),
        ((4, 36), "^image size 4x36 does not fit the token mixing made for 12x12: set .* to 12"),
        ((14, 14), "^image size 14 is not a multiple of the patch size 4: set views.size to 12"),
    ],
)
def test_another_image_size_is_one_line(size, line):
    encoder = tiny()
    variables = jax.eval_shape(lambda key: encoder.init(key, 12), KEY)
    with pytest.raises(ValueError, match=line):  # 4x36 has as many patches, in another order
        jax.eval_shape(encoder.apply, variables, jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"variant": "B16"}, "^encoder.variant is 'B16'; expected a size and a patch side"),
        ({"variant": "T/16"}, "^the size in encoder.variant='T' is unknown; .*S, B, L, H$"),
        ({"activation": "relu"}, "^encoder.activation='relu' .*valid: gelu, gelu_tanh$"),
        ({"depth": 0}, "^encoder.depth=0: expected a whole number above 0$"),
        ({"drop_path": 1.0}, "^encoder.drop_path is 1.0; expected a rate"),
        ({"remat": "all"}, "^encoder.remat='all'"),
        ({"dtype": "half"}, "^encoder.dtype='half'"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, line):
    with pytest.raises(ValueError, match=line) as error:
        mixer.create(**settings)
    assert "\n" not in str(error.value)


def test_a_mask_is_refused():
    encoder = tiny()
    variables = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)
    with pytest.raises(ValueError, match=r"encoder.name mixer takes no mask: use encoder.name vit"):
        jax.eval_shape(
            lambda v: encoder.apply(v, jnp.zeros((1, 8, 8, 3)), mask=jnp.zeros((1, 2, 2), bool)),
            variables,
        )
