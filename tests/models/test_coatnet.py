"""CoAtNet: sizes, relative positions, resolutions; beside timm's in test_parity_coatnet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special
from traced import traced_macs

from vitjax import models
from vitjax.models import coatnet, mbconv
from vitjax.ops import position

KEY = jax.random.key(0)
TINY = {"depths": (1, 2, 1, 1), "dims": (8, 32, 64, 96), "stem": (4, 8)}


def create(variant="0", **settings):
    return models.create("coatnet", variant=variant, **(TINY | settings))


def shapes(encoder, image_size=32):
    return jax.eval_shape(lambda key: encoder.init(key, image_size), KEY)


def images_of(batch, *sides, seed=0):
    shape = (batch, *(sides if len(sides) == 2 else sides * 2), 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(module, x):
    """Random variables without compiling an initialiser."""
    rng = np.random.default_rng(0)
    made = jax.eval_shape(module.init, KEY, x)
    return jax.tree.map(lambda leaf: 0.2 * rng.uniform(size=leaf.shape).astype("float32"), made)


@pytest.mark.parametrize(("variant", "size"), [("0", 64), ("0_rw", 96), ("rmlp_nano_rw", 64)])
def test_macs_are_those_of_the_traced_program(variant, size):
    encoder = create(variant)
    images = jnp.zeros((1, size, size, 3))
    jaxpr = jax.make_jaxpr(encoder.apply)(shapes(encoder, size), images)
    assert traced_macs(jaxpr.jaxpr) == encoder.macs(size)


def test_relative_bias_is_one_number_for_each_offset():
    h, w, H = 3, 4, 2
    table = np.random.default_rng(0).normal(size=(2 * h - 1, 2 * w - 1, H))
    want = np.zeros((H, h * w, h * w))
    for qy, qx, ky, kx in np.ndindex(h, w, h, w):
        want[:, qy * w + qx, ky * w + kx] = table[qy - ky + h - 1, qx - kx + w - 1]
    np.testing.assert_array_equal(position.relative_bias(table, h, w), want)


def test_log_offsets_are_ordered_as_a_table():
    got = position.log_offsets(3, 4)
    assert got.shape == (5, 7, 2)
    np.testing.assert_allclose(got[0, 4], [-np.log(3), np.log(2)], rtol=1e-6)


@pytest.mark.parametrize(("h", "w"), [(4, 3), (6, 2), (1, 5)])
def test_resampled_offsets_are_scipys_bilinear_and_zero_stays_zero(h, w):
    table = np.random.default_rng(0).normal(size=(7, 5, 2)).astype(np.float32)  # for a 4 x 3 map
    got = position.resample_offsets(jnp.asarray(table), h, w)
    at = [(np.arange(2 * n - 1) + 0.5) * s / (2 * n - 1) - 0.5 for n, s in ((h, 7), (w, 5))]
    at = np.meshgrid(*at, indexing="ij")
    want = [ndimage.map_coordinates(t, at, order=1, mode="nearest") for t in table.T.swapaxes(1, 2)]
    np.testing.assert_allclose(got, np.stack(want, axis=-1), atol=1e-6)
    np.testing.assert_allclose(got[h - 1, w - 1], table[3, 2], atol=1e-6)
    if (h, w) == (4, 3):
        np.testing.assert_array_equal(got, table)


@pytest.mark.parametrize("positions", [0, 16])
def test_attention_takes_a_map_of_another_size(positions):
    module = coatnet.RelativeAttention(12, 2, positions, False, jnp.float32)
    x = jax.random.normal(KEY, (2, 3, 4, 8))
    params = drawn(module, x[:, :2, :2])["params"]
    got = jax.jit(module.apply)({"params": params}, x)
    weights = jax.jit(module.clone(weights=True).apply)({"params": params}, x)
    assert got.shape == (2, 3, 4, 12) and weights.shape == (2, 2, 12, 12)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)

    # By hand, a table of the map's own size in the place of the one it has.
    flat = np.asarray(x).reshape(2, 12, 8)
    q, k, v = (
        np.einsum("bnc,chd->bnhd", flat, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    if positions:
        up, down = params["positions_up"], params["positions_down"]
        hidden = np.maximum(np.asarray(position.log_offsets(3, 4)) @ up["kernel"] + up["bias"], 0)
        table = hidden @ down["kernel"] + down["bias"]
    else:
        assert params["position_bias"].shape == (3, 3, 2)
        table = position.resample_offsets(params["position_bias"], 3, 4)
    bias = position.relative_bias(table, 3, 4)
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(32) + bias[None]
    np.testing.assert_allclose(weights, special.softmax(scores, -1), rtol=1e-4)
    out = params["out"]
    want = np.einsum("bhnm,bmhd,hdc->bnc", weights, v, out["kernel"]) + out["bias"]
    np.testing.assert_allclose(got.reshape(2, 12, 12), want, atol=1e-4)


@pytest.mark.parametrize("variant", ["0", "rmlp_nano_rw"])
def test_any_multiple_of_32_is_taken(variant):
    encoder = create(variant)
    apply = functools.partial(encoder.apply, layers=encoder.layers)
    features, _ = jax.eval_shape(apply, shapes(encoder, 64), jnp.zeros((2, 96, 160, 3)))
    assert features.patches.shape == (2, 3, 5, 96)
    sides = [features.layers[name].shape[1:3] for name in encoder.layers]
    assert sides == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)]


@pytest.fixture(scope="module")
def encode(fill):
    """Features with all layers, and statistics; each of its settings compiled once."""

    @functools.cache
    def encode(variant, train=False, **settings):
        encoder = create(variant, **settings)
        apply = functools.partial(encoder.apply, train=train, key=KEY, layers=encoder.layers)
        return jax.jit(apply)(fill(encoder, 32), images_of(4, 64))

    return encode


STACKS = {"depths": (1, 1, 1, 3), "train": True}


def test_unrolled_is_scanned_statistics_included(encode):
    want = encode("bn_0_rw", scan=False, **STACKS)
    got = encode("bn_0_rw", scan=True, **STACKS)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())

    jax.tree.map(close, got, want)


def test_what_is_pooled(encode, fill):
    features, _ = encode("bn_0_rw", scan=True, **STACKS)  # the map is normed, its mean pooled
    want = features.patches.mean(axis=(1, 2))
    np.testing.assert_allclose(features.pooled, want, atol=1e-5)
    assert np.abs(features.patches - features.layers["stage_4"]).max() > 0.1

    features, _ = encode("0")  # the mean of the map is normed
    np.testing.assert_array_equal(features.patches, features.layers["stage_4"])
    mean = np.asarray(features.patches, np.float64).mean(axis=(1, 2))
    normed = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    scale, bias = (
        np.asarray(fill(create("0"), 32)["params"]["norm"][n]) for n in ("scale", "bias")
    )
    np.testing.assert_allclose(features.pooled, normed * scale + bias, atol=1e-4)
    np.testing.assert_allclose(features.vectors["stage_4"], mean, atol=1e-5)


def test_stochastic_depth_grows_along_the_network(monkeypatch):
    """With parameters of zero every branch is zero: let each give its rate, and add them up."""
    for module in (mbconv, coatnet):
        monkeypatch.setattr(module, "drop_path", lambda x, rate, key: x + rate)
    encoder = create("3_rw", drop_path=0.6, depths=(1, 1, 1, 2))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(encoder))
    apply = functools.partial(encoder.apply, train=True, key=KEY, layers=encoder.layers)
    features, _ = jax.jit(apply)(variables, images_of(2, 32))
    rates = np.linspace(0, 0.6, 5)
    want = [0, rates[0], rates[1], 2 * rates[2], 2 * rates[3:].sum()]
    # The first block of a stage projects what came before: with zeros, so that it starts at 0.
    for name, value in zip(encoder.layers, want, strict=True):
        np.testing.assert_allclose(features.layers[name], value, atol=1e-6)


@pytest.mark.parametrize("block", [mbconv.MBConv, coatnet.AttentionBlock])
def test_stochastic_depth_drops_a_branch_of_some_images_and_doubles_the_others(block):
    module = block(32, 1, coatnet.SCALED, False, jnp.float32)
    x = jax.random.normal(KEY, (16, 2, 2, 32))
    variables = drawn(module, x)
    variables["params"]["layer_scale1"] = jnp.ones(32)
    variables["params"]["layer_scale2"] = jnp.zeros(32)
    apply = jax.jit(module.apply)
    branch = apply(variables, x) - x
    got = apply(variables, x, jnp.float32(0.5), rngs={"dropout": KEY}) - x
    times = np.rint(np.median(got / branch, axis=(1, 2, 3)))
    np.testing.assert_allclose(got, times[:, None, None, None] * branch, atol=1e-5)
    assert set(times) == {0, 2}


def last_attention(encoder):
    name, _ = encoder.attends[-1]
    return jax.jit(lambda *given: encoder.attention(*given, [name])[name])


@pytest.mark.parametrize("depth", [1, 3])
def test_attention_is_that_of_the_last_block(depth, fill):
    """Its queries set to zero, only its own bias is left."""
    encoder = create("bn_0_rw", depths=(1, 1, 1, depth))
    variables = fill(encoder, 64)  # 2 x 2 positions at the end
    stage = variables["params"]["stage_4"]
    last = stage["first" if depth == 1 else "blocks"]["attention"]
    place = ... if depth == 1 else -1
    for array in ("kernel", "bias"):
        last["query"][array] = last["query"][array].at[place].set(0.0)
    bias = position.relative_bias(last["position_bias"][place], 2, 2)
    assert encoder.attends[0] == ("stage_3_block_00", 0) and len(encoder.attends) == 1 + depth
    weights = last_attention(encoder)(variables, images_of(2, 64))
    heads = 2 if depth == 1 else 3  # as many as 64 channels coming in have, or 96
    assert weights.shape == (2, heads, 4, 4) and weights.dtype == jnp.float32
    want = np.broadcast_to(special.softmax(bias, -1), weights.shape)
    np.testing.assert_allclose(weights, want, atol=1e-6)


def test_attention_is_on_what_enters_the_last_block(fill):
    """The block before it changed, its weights change; its own MLP changed, they do not."""
    encoder = create("0", depths=(1, 1, 1, 3))
    attention = last_attention(encoder)
    images = images_of(2, 64)
    want = attention(fill(encoder, 64), images)

    def changed(layer):
        variables = fill(encoder, 64)
        up = variables["params"]["stage_4"]["blocks"]["mlp"]["up"]
        up["bias"] = up["bias"].at[layer].add(1.0)
        return np.abs(attention(variables, images) - want).max()

    assert changed(-1) == 0 and changed(-2) > 1e-3


def test_attention_of_every_block_is_that_of_a_network_that_ends_there(fill):
    """Weights of a block do not depend on what follows it."""
    long, short = (create("0", depths=(1, 1, 2, n)) for n in (3, 2))
    variables = fill(long, 64)
    names = [name for name, _ in long.attends]
    assert names == [
        *(f"stage_3_block_0{i}" for i in (0, 1)),
        *(f"stage_4_block_0{i}" for i in (0, 1, 2)),
    ]
    got = jax.jit(functools.partial(long.attention, names=names))(variables, images_of(2, 64))
    params = dict(variables["params"])
    rest = dict(params["stage_4"])
    rest["blocks"] = jax.tree.map(lambda leaf: leaf[:1], rest["blocks"])
    ended = {**variables, "params": params | {"stage_4": rest}}
    want = jax.jit(functools.partial(short.attention, names=names[:-1]))(ended, images_of(2, 64))
    assert got["stage_3_block_00"].shape == (2, 2, 16, 16)  # 32 to 64 channels, out of 64
    for name in names[:-1]:
        np.testing.assert_allclose(got[name], want[name], atol=1e-6)
        np.testing.assert_allclose(got[name].sum(-1), 1, rtol=1e-5)
    assert np.abs(got[names[-1]] - got[names[-2]]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "6"}, "encoder.variant='6' is unknown; .*0_rw"),
        ({"drop_path": 1.0}, "encoder.drop_path is 1.0"),
        ({"depths": (1, 2, 0, 1)}, r"encoder.depths is \[1, 2, 0, 1\]; expected 4 whole numbers"),
        ({"stem": (32,)}, r"encoder.stem is \[32\]; expected 2 whole numbers"),
        ({"dims": (8, 32, 64, 90)}, "encoder.dims .* multiples of 4, and of 32 in the last 2"),
        ({"variant": "1_rw", "dims": (8, 8, 64, 96)}, "encoder.dims .* 32 in the last 3 of dims"),
        ({"remat": "all"}, "encoder.remat='all'"),
        ({"dtype": "half"}, "encoder.dtype='half'"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        create(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": (1, 33, 32)}, "image size 33 is not a multiple of 32.* views.size to 32"),
        ({"images": (1, 100, 8)}, "image size 100 .* set views.size to 96"),
        (
            {"mask": jnp.zeros((1, 1, 1), bool)},
            "mask= needs a mask token: set encoder.mask_token to True",
        ),
        ({"train": True}, "drop_path above 0 needs key=, got None"),
    ],
)
def test_what_it_cannot_take_is_named_in_one_line(given, message):
    encoder = create(drop_path=0.1)
    given = {"images": (1, 32, 32)} | given
    images = jnp.zeros((*given.pop("images"), 3))
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(functools.partial(encoder.apply, **given), shapes(encoder), images)
    assert "\n" not in str(error.value)
