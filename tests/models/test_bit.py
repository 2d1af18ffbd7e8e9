"""BiT and the hybrids' stem against definitions in float64, and the sizes the papers print."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import traced_macs

from vitjax.models import bit, weight_standardised

TINY = {"depths": (2, 1), "width": 32}
FORMS = list(bit.FORMS)
KEY = jax.random.key(0)


def images_of(batch, size, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def shapes(encoder, size=64):
    return jax.eval_shape(lambda key: encoder.init(key, size), KEY)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [33, 64])
def test_macs_are_those_of_the_traced_convolutions(form, size):
    encoder = bit.create("R26x2", form=form)
    jaxpr = jax.make_jaxpr(encoder.apply)(shapes(encoder), jnp.zeros((1, size, size, 3)))
    assert traced_macs(jaxpr.jaxpr) == encoder.macs(size)


# The definitions, in float64.


def standardise(kernel, form):
    """Both formulas of the sources; see weight_standardised."""
    mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    return (kernel - mean) / (np.sqrt(var + 1e-10) if form == "preact" else np.sqrt(var) + 1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_kernels_are_standardised_as_each_source_does(scale):
    """Small kernels tell the two formulas apart: by 9% at this deviation."""
    kernel = scale * (3 + np.random.default_rng(0).normal(size=(3, 2, 5, 4)))
    ours = {
        "preact": weight_standardised.over_root,
        "postact": weight_standardised.over_deviation,
    }
    for form, rule in ours.items():
        want = standardise(kernel, form)
        np.testing.assert_allclose(rule(jnp.float32(kernel)), want, atol=2e-5)
    apart = np.abs(standardise(kernel, "preact") - standardise(kernel, "postact")).max()
    assert (apart > 0.05) == (scale < 1)


def pad(x, size, stride, form, value=0.0):
    """Symmetric, or TensorFlow's SAME, which puts what is odd at the end."""
    before = after = size // 2
    if form == "postact":
        total = max((-(-x.shape[1] // stride) - 1) * stride + size - x.shape[1], 0)
        before, after = total // 2, total - total // 2
    around = (before, after)
    return np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=value)


def windows(x, size, stride):
    """[B, h, w, C, size, size]"""
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return found[:, ::stride, ::stride]


def conv(x, p, form, stride=1):
    kernel = standardise(p["kernel"], form)
    found = windows(pad(x, len(kernel), stride, form), len(kernel), stride)
    return np.einsum("bhwcij,ijco->bhwo", found, kernel, optimize=True)


def norm(x, p, form):
    groups = x.reshape(*x.shape[:3], 32, -1)
    mean, var = (f((1, 2, 4), keepdims=True) for f in (groups.mean, groups.var))
    eps = 1e-5 if form == "preact" else 1e-6
    return ((groups - mean) / np.sqrt(var + eps)).reshape(x.shape) * p["scale"] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def unit(x, p, form, stride):
    if form == "preact":
        y = relu(norm(x, p["norm1"], form))
        x = conv(y, p["shortcut_conv"], form, stride) if "shortcut_conv" in p else x
        y = relu(norm(conv(y, p["conv1"], form), p["norm2"], form))
        y = relu(norm(conv(y, p["conv2"], form, stride), p["norm3"], form))
        return x + conv(y, p["conv3"], form)
    y = relu(norm(conv(x, p["conv1"], form), p["norm1"], form))
    y = relu(norm(conv(y, p["conv2"], form, stride), p["norm2"], form))
    y = norm(conv(y, p["conv3"], form), p["norm3"], form)
    if "shortcut_conv" in p:
        x = norm(conv(x, p["shortcut_conv"], form, stride), p["shortcut_norm"], form)
    return relu(x + y)


def reference(images, p, depths, form):
    x = conv(images, p["stem_conv"], form, 2)
    if form == "preact":  # a border of zeros, which is the largest where all around is negative
        x = windows(pad(x, 3, 2, form), 3, 2).max((-2, -1))
    else:
        x = relu(norm(x, p["stem_norm"], form))
        x = windows(pad(x, 3, 2, form, -np.inf), 3, 2).max((-2, -1))
    maps = {"stem": x}
    for stage, length in enumerate(depths):
        parts = p[f"stage_{stage + 1}"]
        x = unit(x, parts["first"], form, 1 if stage == 0 else 2)
        for i in range(length - 1):
            x = unit(x, jax.tree.map(lambda leaf, i=i: leaf[i], parts["blocks"]), form, 1)
        maps[f"stage_{stage + 1}"] = x
    return maps, relu(norm(x, p["norm"], form)) if form == "preact" else x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [33, 40])
def test_forward_is_the_definition_in_float64(form, size, fill):
    """Odd and even maps at every stride: where symmetric and SAME padding differ."""
    encoder = bit.create(**TINY, form=form)
    variables, images = fill(encoder, size), images_of(2, size)
    images -= 3.0  # corners of the stem's map below zero, where the pool's border shows
    encode = jax.jit(functools.partial(encoder.apply, layers=encoder.layers))
    got = encode(variables, images)[0]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    maps, last = reference(images.astype(np.float64), params, TINY["depths"], form)
    for name, want in maps.items():
        close(got.layers[name], want)
        close(got.vectors[name], want.mean((1, 2)))
    close(got.patches, last)
    close(got.pooled, last.mean((1, 2)))
    np.testing.assert_array_equal(got.tokens, got.patches.reshape(got.tokens.shape))


def close(got, want, tolerance=1e-4):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_unrolled_is_scanned_and_rematerialised(fill):
    settings = {"depths": (3,), "width": 32}
    unrolled = bit.create(**settings, scan=False)
    variables, images = fill(unrolled, 16), images_of(2, 16)

    def gradient(encoder):
        def loss(params):
            return (encoder.apply({"params": params, "stats": {}}, images)[0].pooled ** 2).mean()

        return jax.jit(jax.grad(loss))(variables["params"])

    got = gradient(bit.create(**settings, scan=True, remat="dots"))
    jax.tree.map(functools.partial(close, tolerance=1e-3), got, gradient(unrolled))


@pytest.mark.parametrize("form", FORMS)
def test_stochastic_depth_drops_branches_of_later_units_in_training_only(form, fill):
    encoder = bit.create(**TINY, form=form, drop_path=0.5)
    plain = bit.create(**TINY, form=form)
    variables, images = fill(encoder, 16), np.repeat(images_of(1, 16), 16, axis=0)
    train = jax.jit(
        lambda v, x, key: encoder.apply(v, x, train=True, key=key, layers=("stage_1",))[0]
    )
    want = jax.jit(plain.apply)(variables, images)[0]
    evaluated = jax.jit(encoder.apply)(variables, images)[0]
    np.testing.assert_array_equal(evaluated.pooled, want.pooled)
    maps = np.asarray(train(variables, images, KEY).layers["stage_1"])
    distinct = {map.tobytes() for map in maps}  # the first unit's rate is 0, the second's 1/4
    assert len(distinct) == 2
    with pytest.raises(ValueError, match=r"encoder.drop_path above 0 needs key=, got None"):
        encoder.apply(variables, images, train=True)


def test_the_stem_of_a_hybrid_is_postact_without_its_pool(fill):
    blocks = (2, 1)
    encoder = bit.create(depths=blocks, width=32, form="postact")
    variables, images = fill(encoder, 33), images_of(2, 33)
    stem = weight_standardised.ResNetStem(blocks, width=32)
    got = jax.jit(stem.apply)({"params": variables["params"]}, images)
    close(got, jax.jit(encoder.apply)(variables, images)[0].patches, tolerance=1e-6)
    assert got.shape == (2, 5, 5, stem.channels) and stem.stride == encoder.stride


@pytest.mark.parametrize(
    ("blocks", "stride", "channels"), [((3, 4, 9), 16, 1024), ((2, 2, 2, 2), 32, 2048), ((), 4, 64)]
)
def test_the_stems_of_the_published_hybrids(blocks, stride, channels):
    stem = weight_standardised.ResNetStem(blocks)
    images = jnp.zeros((1, 224, 224, 3))
    map, variables = jax.eval_shape(lambda key: stem.init_with_output(key, images), KEY)
    assert (stem.stride, stem.channels) == (stride, channels)
    assert map.shape == (1, 224 // stride, 224 // stride, channels)
    jaxpr = jax.make_jaxpr(stem.apply)(variables, images)
    assert traced_macs(jaxpr.jaxpr) == weight_standardised.macs(224, blocks, 64)


def test_equal_settings_make_equal_encoders():
    assert bit.create(depths=[2, 1]) == bit.create(depths=(2, 1))
    assert hash(bit.create("R50x3")) == hash(bit.create("R50x3"))
    assert bit.create(form="preact") != bit.create(form="postact")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "50x1"}, "encoder.variant is '50x1'; expected a depth and a multiplier"),
        ({"variant": "R51x1"}, "the depth in encoder.variant='51'.*valid: 26, 50"),
        ({"form": "v2"}, "encoder.form='v2'.*preact, postact"),
        ({"width": 48}, "encoder.width is 48; expected a multiple of 32"),
        ({"depths": (2, 0)}, r"encoder.depths is \(2, 0\); expected units of each stage"),
        ({"drop_path": 1.0}, "encoder.drop_path is 1.0; expected a rate"),
        ({"remat": "all"}, "encoder.remat='all'"),
        ({"dtype": "half"}, "encoder.dtype='half'"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        bit.create(**settings)
    assert "\n" not in str(error.value)


def test_a_mask_without_its_token_is_refused():
    encoder = bit.create(**TINY)
    with pytest.raises(
        ValueError, match=r"mask= needs a mask token: set encoder.mask_token to True"
    ):
        jax.eval_shape(
            lambda v, x: encoder.apply(v, x, mask=jnp.zeros((1, 8, 8), bool)),
            shapes(encoder),
            jnp.zeros((1, 64, 64, 3)),
        )
