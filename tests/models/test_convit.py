"""ConViT against its equations in NumPy, and what it starts as; timm's in test_parity_convit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from scipy.special import erf, softmax
from traced import traced_macs

from vitjax import models
from vitjax.models import convit
from vitjax.ops import quadratic
from vitjax.sharding import rules

TINY = {"variant": "S/4", "width": 18, "depth": 3, "local": 2, "mlp": 14}  # 9 heads of 2
KEY = jax.random.key(0)


def create(**settings):
    return models.create("convit", **(TINY | settings))


def images_of(batch, h, w, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, h, w, 3)).astype(np.float32)


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def weights_of(y, p):
    q, k = (np.einsum("bnd,dhk->bhnk", y, p[name]["kernel"]) for name in ("query", "key"))
    return softmax(np.einsum("bhnk,bhmk->bhnm", q, k) / np.sqrt(2), -1)


def gated(y, p, h, w):
    """Equations 6 and 7, entry by entry."""
    scores = np.zeros((9, h * w, h * w))
    for qy, qx, ky, kx in np.ndindex(h, w, h, w):
        dy, dx = ky - qy, kx - qx
        r = np.array([dy**2 + dx**2, dy, dx])
        scores[:, qy * w + qx, ky * w + kx] = r @ p["positions"]["kernel"] + p["positions"]["bias"]
    gate = 1 / (1 + np.exp(-p["gate"][None, :, None, None]))
    return (1 - gate) * weights_of(y, p) + gate * softmax(scores, -1)[None]


def branch(y, weights, p):
    v = np.einsum("bnd,dhk->bhnk", y, p["value"]["kernel"])
    return np.einsum("bhnm,bhmk,hkd->bnd", weights, v, p["out"]["kernel"]) + p["out"]["bias"]


@pytest.fixture(scope="module")
def both(fill):
    """Ours on 2 images of 3 x 2 patches, and by hand in float64."""
    encoder, x = create(), images_of(2, 12, 8)
    variables = fill(encoder, 12)
    apply = jax.jit(functools.partial(encoder.apply, layers=encoder.layers))
    table = variables["params"]["position_embedding"]
    variables["params"]["position_embedding"] = table[:, :2]  # so it is not resampled
    features, _ = apply(variables, x)
    names = [name for name, _ in encoder.attends]
    weights = jax.jit(functools.partial(encoder.attention, names=names))(variables, x)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = x.astype(np.float64).reshape(2, 3, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(2, 6, 48) @ p["embedding"]["kernel"].reshape(48, 18) + p["embedding"]["bias"]
    x = x + p["position_embedding"].reshape(1, 6, 18)
    want = {}
    for stage, layers in (("stage_1", 2), ("stage_2", 1)):
        if stage == "stage_2":
            x = np.concatenate([np.broadcast_to(p["cls"], (2, 1, 18)), x], axis=1)
        for i in range(layers):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], p[stage]["blocks"])
            y, attention = norm(x, block["norm1"]), block["attention"]
            a = gated(y, attention, 3, 2) if stage == "stage_1" else weights_of(y, attention)
            x = x + branch(y, a, attention)
            y = norm(x, block["norm2"]) @ block["mlp"]["up"]["kernel"] + block["mlp"]["up"]["bias"]
            y = y * (1 + erf(y / np.sqrt(2))) / 2
            x = x + y @ block["mlp"]["down"]["kernel"] + block["mlp"]["down"]["bias"]
            want[f"block_{len(want):02d}"] = x, a
    return encoder, features, weights, want, norm(x, p["norm"])


def test_forward_is_the_equations_in_float64(both):
    _, features, _, want, tokens = both
    np.testing.assert_allclose(features.tokens, tokens, atol=1e-4)
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    np.testing.assert_array_equal(features.patches.reshape(2, 6, 18), features.tokens[:, 1:])
    for name, (x, _) in want.items():
        np.testing.assert_allclose(
            features.layers[name].reshape(2, 6, 18), x[:, x.shape[1] - 6 :], atol=1e-4
        )
    # The class token of the last block, the mean patch before it has joined.
    np.testing.assert_allclose(features.vectors["block_02"], features.pooled, atol=1e-5)
    assert np.abs(features.vectors["block_01"]).max() > 0.1


def test_attention_of_every_block_is_that_of_the_equations(both):
    encoder, _, weights, want, _ = both
    assert encoder.attends == (("block_00", 0), ("block_01", 0), ("block_02", 1))
    for name, prefix in encoder.attends:
        assert weights[name].shape == (2, 9, 6 + prefix, 6 + prefix)
        np.testing.assert_allclose(weights[name], want[name][1], atol=1e-5)


@pytest.fixture(scope="module")
def fresh():
    """Parameters as they start, by settings."""

    @functools.cache
    def fresh(**settings):
        encoder = create(**settings)
        return encoder, jax.jit(lambda key: encoder.init(key, 24))(KEY)

    return fresh


def test_it_starts_mildly_local(fresh):
    """Section 3: gates at sigmoid(1) = .73, values the identity, heads around the query."""
    _, variables = fresh()
    p = jax.tree.map(lambda leaf: leaf[1], variables["params"]["stage_1"]["blocks"]["attention"])
    np.testing.assert_array_equal(p["value"]["kernel"].reshape(18, 18), np.eye(18))
    np.testing.assert_allclose(jax.nn.sigmoid(p["gate"]), 0.731, atol=1e-3)
    for name in ("query", "key", "out"):
        assert 0.01 < np.std(p[name]["kernel"]) < 0.03, name
    # v . r, least where the offset is the head's centre.
    r = np.asarray(quadratic.quadratic_offsets(2, 2)).reshape(9, 3)
    found = r[np.argmax(r @ p["positions"]["kernel"], axis=0), 1:]
    np.testing.assert_array_equal(found, np.argwhere(np.ones((3, 3))) - 1)


def test_sharp_and_closed_it_starts_as_a_convolution(fresh):
    """arXiv:1911.03584: W_out is then the kernel of a 3 x 3 convolution of each head's channels,
    whatever queries and keys are."""
    encoder, variables = fresh(locality=20.0, gate=25.0)
    block = jax.tree.map(lambda leaf: leaf[0], variables["params"]["stage_1"]["blocks"])
    module = convit.GatedAttention(encoder.network.form, (6, 5))
    x = np.random.default_rng(0).normal(size=(2, 30, 18)).astype(np.float32)
    got = jax.jit(module.apply)({"params": block["attention"]}, x)
    kernel = np.zeros((3, 3, 18, 18), np.float32)
    for head, out in enumerate(np.asarray(block["attention"]["out"]["kernel"])):  # [2, 18]
        kernel[head // 3, head % 3, 2 * head : 2 * head + 2] = out
    bordered = np.pad(x.reshape(2, 6, 5, 18), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    names = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(bordered, kernel, (1, 1), "VALID", dimension_numbers=names)
    error = np.abs(got.reshape(want.shape) - want).max() / np.abs(want).max()
    assert error < 1e-5
    assert np.abs(want).max() > 0.1


def test_macs_are_those_of_the_traced_program():
    encoder = create()
    variables = jax.eval_shape(lambda key: encoder.init(key, 20), KEY)
    program = jax.make_jaxpr(encoder.apply)(variables, jnp.zeros((1, 20, 20, 3)))
    assert traced_macs(program.jaxpr) == encoder.macs(20)


def test_unrolled_is_scanned_is_rematerialised(fill):
    variables, x = fill(create(), 8), images_of(6, 8, 8)

    def gradients(**settings):
        encoder = create(drop_path=0.3, **settings)

        def loss(params):
            variables = {"params": params, "stats": {}}
            return (encoder.apply(variables, x, train=True, key=KEY)[0].pooled ** 2).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    want = gradients()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(want["stage_2"]["blocks"]["mlp"]))
    gate = want["stage_1"]["blocks"]["attention"]["gate"]
    assert gate.shape == (2, 9) and np.abs(gate).max() > 1e-4
    for settings in ({"scan": False}, {"remat": "dots"}):
        got = gradients(**settings)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, want)


def test_another_grid_moves_the_table_and_keeps_the_offsets(fill):
    encoder, variables = create(), fill(create(), 12)
    features, _ = jax.eval_shape(encoder.apply, variables, jnp.zeros((2, 20, 16, 3)))
    assert features.patches.shape == (2, 5, 4, 18)


def test_heads_are_cut_over_the_model_axis():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    encoder = create(heads=4, width=16)
    shapes = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)["params"]
    placed = rules.shardings(shapes, mesh)["stage_1"]["blocks"]["attention"]
    assert placed["value"]["kernel"].spec[-2] == "model"
    assert placed["out"]["kernel"].spec[-3] == "model"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"variant": "R50+S/16"}, r"^encoder.variant is 'R50\+S/16': a convit has no ResNet"),
        ({"variant": "L/16"}, r"^the size in encoder.variant='L' .*Ti, S, B, Ti\+, S\+, B\+$"),
        ({"heads": 6}, "^encoder.heads=6: expected a square, as 4, 9 or 16: heads are taps$"),
        ({"width": 20}, "^encoder.width 20 is not a multiple of encoder.heads 9$"),
        ({"local": 3}, "^encoder.local=3: expected below encoder.depth, 3; the class token"),
        ({"depth": 0}, "^encoder.depth=0: expected a whole number above 0$"),
        ({"locality": 0.0}, "^encoder.locality=0.0: expected above 0$"),
        ({"drop_path": 1.0}, "^encoder.drop_path is 1.0; expected a rate"),
        ({"attention": "flsh"}, "^encoder.attention='flsh'"),
        ({"resample": "none"}, "^encoder.resample='none'"),
        ({"remat": "all"}, "^encoder.remat='all'"),
        ({"dtype": "half"}, "^encoder.dtype='half'"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, line):
    with pytest.raises(ValueError, match=line) as error:
        create(**settings)
    assert "\n" not in str(error.value)
