"""ConvNeXt against SciPy in float64, its published sizes, and what its blocks promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import erf
from traced import traced_macs

from vitjax.models import convnext

TINY = {"depths": (1, 2, 1, 3), "dims": (4, 6, 8, 10)}
V1, V2 = TINY | {"variant": "T"}, TINY | {"variant": "V2-T"}
KEY = jax.random.key(0)


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def shapes(encoder, size=32):
    return jax.eval_shape(lambda key: encoder.init(key, size), KEY)


def maps(encoder, variables, images, **settings):
    return jax.jit(lambda v, x: encoder.apply(v, x, layers=encoder.layers, **settings)[0])(
        variables, images
    )


@pytest.mark.parametrize(
    ("variant", "gmacs"), [("T", 4.456), ("S", 8.684), ("B", 15.355), ("L", 34.361)]
)
def test_macs_are_those_torchvision_counts(variant, gmacs):
    encoder = convnext.create(variant)
    assert abs(1e-9 * (encoder.macs(224) + 1000 * encoder.width) - gmacs) < 6e-4


@pytest.mark.parametrize(("settings", "size"), [(V1, 32), (V2, 77), (V1 | {"patch": 1}, 23)])
def test_macs_are_those_of_the_traced_program(settings, size):
    encoder = convnext.create(**settings)
    jaxpr = jax.make_jaxpr(encoder.apply)(shapes(encoder), jnp.zeros((1, size, size, 3)))
    assert traced_macs(jaxpr.jaxpr) == encoder.macs(size)


def norm(x, p, eps=1e-6):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * p["scale"] + p["bias"]


def cut(x, p):
    """A convolution whose stride is its size: whole windows only."""
    k = p["kernel"].shape[0]
    h, w = x.shape[1] // k, x.shape[2] // k
    windows = x[:, : h * k, : w * k].reshape(len(x), h, k, w, k, -1)
    return np.einsum("bhiwjc,ijcd->bhwd", windows, p["kernel"]) + p["bias"]


def depthwise(x, p):
    """PyTorch's Conv2d with padding 3 and as many groups as channels."""
    x = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    channels = [
        [correlate(image[..., c], p["kernel"][:, :, 0, c], "valid") for c in range(x.shape[-1])]
        for image in x
    ]
    return np.moveaxis(np.array(channels), 1, -1) + p["bias"]


def response_norm(x, p):  # arXiv:2301.00808, algorithm 1
    g = np.sqrt((x**2).sum((1, 2), keepdims=True))
    n = g / (g.mean(-1, keepdims=True) + 1e-6)
    return p["scale"] * (x * n) + p["bias"] + x


def block(x, p):
    y = norm(depthwise(x, p["depthwise"]), p["norm"])
    y = y @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"]
    y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
    if "grn" in p["mlp"]:
        y = response_norm(y, p["mlp"]["grn"])
    y = y @ p["mlp"]["down"]["kernel"] + p["mlp"]["down"]["bias"]
    return x + (p["layer_scale"] * y if "layer_scale" in p else y)


@pytest.mark.parametrize("settings", [V1, V2 | {"last_norm_eps": 0.1}])
def test_forward_is_scipy_in_float64(settings, fill):
    """At a size where every downsampling leaves pixels over."""
    encoder = convnext.create(**settings)
    variables = fill(encoder, 32)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    images = images_of(2, 39, 62)
    got = maps(encoder, variables, images)

    def check(got, want):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())

    x = norm(cut(images, p["stem_conv"]), p["stem_norm"])
    check(got.layers["stem"], x)
    for index, depth in enumerate(TINY["depths"]):
        stage = p[f"stage_{index + 1}"]
        if index > 0:
            x = cut(norm(x, stage["downsample_norm"]), stage["downsample_conv"])
        for i in range(depth):
            x = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], stage["blocks"]))
        check(got.layers[f"stage_{index + 1}"], x)
        check(got.vectors[f"stage_{index + 1}"], x.mean((1, 2)))
    eps = settings.get("last_norm_eps", 1e-6)
    check(got.pooled, norm(x.mean((1, 2)), p["norm"], eps))
    check(got.patches, norm(x, p["norm"], eps))
    np.testing.assert_array_equal(got.tokens, got.patches.reshape(got.tokens.shape))


def test_the_response_norm_is_its_formula_and_starts_as_the_identity():
    network = convnext.GlobalResponseNorm(jnp.float32)
    x = images_of(2, 5, 4).repeat(2, -1) * np.arange(1, 7, dtype=np.float32)
    fresh = network.init(KEY, x)
    np.testing.assert_array_equal(network.apply(fresh, x), x)

    rng = np.random.default_rng(1)
    p = {name: rng.normal(size=6).astype(np.float32) for name in ("scale", "bias")}
    want = response_norm(x.astype(np.float64), p)
    np.testing.assert_allclose(network.apply({"params": p}, x), want, rtol=1e-5, atol=1e-5)


def test_the_response_norm_has_gradients_where_a_channel_is_dead():
    network = convnext.GlobalResponseNorm(jnp.float32)
    x = images_of(2, 5, 4)
    x[0, :, :, 1] = 0.0
    x[1] = 0.0
    p = {"scale": jnp.ones(3), "bias": jnp.ones(3)}
    grads = jax.grad(lambda p, x: jnp.sin(network.apply({"params": p}, x)).sum(), (0, 1))(p, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.abs(grads[1][0, :, :, 0]).min() > 0


def without_branches(variables, stages):
    """The same variables, the LayerScale of these stages at 0."""
    params = dict(variables["params"])
    for stage in stages:
        blocks = params[stage]["blocks"]
        blocks = blocks | {"layer_scale": jnp.zeros_like(blocks["layer_scale"])}
        params[stage] = params[stage] | {"blocks": blocks}
    return {"params": params, "stats": {}}


def test_with_layer_scale_at_zero_a_block_is_the_identity(fill):
    encoder = convnext.create(**V1)
    variables, images = fill(encoder, 32), images_of(2, 64, 32)
    run = jax.jit(lambda v: encoder.apply(v, images, layers=("stem", "stage_1"))[0].layers)
    got = run(without_branches(variables, ("stage_1",)))
    np.testing.assert_array_equal(got["stage_1"], got["stem"])
    got = run(variables)
    assert np.abs(got["stage_1"] - got["stem"]).max() > 0.1


def test_stochastic_depth_drops_whole_samples_linearly_more_with_depth(fill):
    rate, B = 0.6, 64
    settings = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 10), "drop_path": rate}
    encoder = convnext.create("T", **settings)
    variables, images = fill(encoder, 32), images_of(B, 64, 64)
    names = encoder.layers[1:]

    def run(variables, train, key):
        return encoder.apply(variables, images, train=train, key=key, layers=names)[0].layers

    run = jax.jit(run, static_argnums=1)
    for index, name in enumerate(names):
        # Nothing happens before this stage, so that its input is the same every time.
        quiet = without_branches(variables, names[:index])
        skipped = run(without_branches(variables, names[: index + 1]), False, KEY)[name]
        branch = run(quiet, False, KEY)[name] - skipped
        added = run(quiet, True, KEY)[name] - skipped
        here = rate * index / 3
        kept = np.abs(added).max((1, 2, 3)) > 0
        want = np.where(kept[:, None, None, None], branch / (1 - here), 0)
        np.testing.assert_allclose(added, want, atol=1e-4)
        deviation = np.sqrt(here * (1 - here) / B)
        assert abs(kept.mean() - (1 - here)) <= 3 * deviation
    other = run(variables, True, jax.random.key(1))
    assert np.abs(other["stage_4"] - run(variables, True, KEY)["stage_4"]).max() > 0.1


def test_stochastic_depth_needs_a_key_in_training_only(fill):
    encoder = convnext.create(**V1, drop_path=0.1)
    images = jnp.zeros((2, 32, 32, 3))
    with pytest.raises(ValueError, match=r"encoder.drop_path above 0 needs key="):
        jax.eval_shape(lambda v: encoder.apply(v, images, train=True)[0], shapes(encoder))
    jax.eval_shape(lambda v: encoder.apply(v, images)[0], shapes(encoder))


@pytest.mark.parametrize(("variant", "remat"), [("T", "none"), ("V2-T", "full")])
def test_unrolled_is_scanned_and_rematerialised(variant, remat, fill):
    """With stochastic depth: the keys of the blocks are the same too."""
    settings = {"depths": (1, 3, 1, 1), "dims": (4, 6, 8, 10), "drop_path": 0.9}
    variables = fill(convnext.create(variant, **settings), 32)
    images = images_of(8, 32, 32)

    def trained(**how):
        encoder = convnext.create(variant, **settings, **how)

        def loss(params):
            weights = {"params": variables["params"] | params, "stats": {}}
            features, _ = encoder.apply(weights, images, True, KEY, layers=("stage_2",))
            return (features.layers["stage_2"] ** 2).mean()

        # Half of the network compiles in half the time.
        params = {name: variables["params"][name] for name in ("stage_1", "stage_2")}
        return jax.jit(jax.value_and_grad(loss))(params)

    want = trained(scan=False)
    assert np.abs(want[1]["stage_2"]["blocks"]["depthwise"]["kernel"]).min((1, 2, 3, 4)).max() > 0
    got = trained(scan=True, remat=remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, want)


def test_the_traced_program_does_not_grow_with_depth():
    def length(variant):
        encoder = convnext.create(variant, dims=(4, 6, 8, 10), drop_path=0.1)
        images = jnp.zeros((2, 32, 32, 3))

        def loss(variables):
            return encoder.apply(variables, images, True, KEY)[0].pooled.sum()

        return len(str(jax.make_jaxpr(jax.grad(loss))(shapes(encoder))))

    assert length("S") < 1.02 * length("T")


@pytest.mark.parametrize(
    ("settings", "size", "grid"),
    [(V1, (32, 32), (1, 1)), (V2, (63, 96), (1, 3)), (V1 | {"patch": 1}, (8, 17), (1, 2))],
)
def test_any_size_from_one_stride_up_is_taken(settings, size, grid):
    encoder = convnext.create(**settings)
    features, _ = jax.eval_shape(encoder.apply, shapes(encoder), jnp.zeros((2, *size, 3)))
    assert features.patches.shape == (2, *grid, 10)
    assert encoder.stride == (8 if "patch" in settings else 32)


def test_smaller_images_and_masks_are_refused():
    encoder = convnext.create(**V1)
    for size in [(31, 64), (64, 31)]:
        with pytest.raises(ValueError, match=r"size 31 is smaller than the stride 32 .*views.size"):
            jax.eval_shape(encoder.apply, shapes(encoder), jnp.zeros((1, *size, 3)))
    with pytest.raises(
        ValueError, match=r"mask= needs a mask token: set encoder.mask_token to True"
    ):
        mask = jnp.zeros((1, 1, 1), bool)
        jax.eval_shape(
            lambda v, x: encoder.apply(v, x, mask=mask), shapes(encoder), jnp.zeros((1, 32, 32, 3))
        )


def test_every_block_output_is_held_to_the_batch_axis():
    encoder = convnext.create(**V1, scan=True)

    def constraints():
        program = jax.make_jaxpr(lambda *x: encoder.apply(*x)[0])(
            shapes(encoder), jnp.zeros((8, 32, 32, 3))
        )
        return str(program).count("= sharding_constraint")

    assert constraints() == 0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert constraints() == 1 + 4 + 3  # stem, a scan of blocks per stage, the steps between


@pytest.mark.parametrize("settings", [V1, V2])
def test_bfloat16_is_float32_to_its_precision(settings, fill):
    wide, narrow = (convnext.create(**settings, dtype=d) for d in ("float32", "bfloat16"))
    variables, images = fill(wide, 32), images_of(2, 64, 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(narrow))} == {jnp.dtype("float32")}
    want, got = maps(wide, variables, images), maps(narrow, variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    for name, map in want.layers.items():
        difference = np.abs(got.layers[name].astype(jnp.float32) - map).max()
        assert difference < 0.05 * np.abs(map).max(), name


def test_parameters_start_as_published_and_no_two_blocks_alike():
    encoder = convnext.create("atto")

    def some(key):
        params = encoder.init(key, 32)["params"]
        return params["stem_conv"], params["stage_3"]["blocks"]

    stem, blocks = jax.jit(some)(KEY)
    for kernel in (stem["kernel"], blocks["depthwise"]["kernel"], blocks["mlp"]["up"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.05)
        assert np.abs(kernel).max() > 2.5 * 0.02  # not truncated
    np.testing.assert_array_equal(blocks["layer_scale"], np.full((6, 160), 1e-6, np.float32))
    assert np.abs(blocks["depthwise"]["kernel"][0] - blocks["depthwise"]["kernel"][1]).max() > 0.02
    assert not np.any(stem["bias"]) and not np.any(blocks["mlp"]["down"]["bias"])


def test_equal_settings_make_equal_networks():
    listed = {key: list(value) for key, value in TINY.items()}  # as a config file has them
    one, other = convnext.create("T", **TINY), convnext.create("T", **listed)
    assert one == other and hash(one.network) == hash(other.network)
    assert one != convnext.create("V2-T", **TINY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "V2-S"}, "encoder.variant='V2-S' is unknown; .*V2-T"),
        ({"depths": (1, 2, 3)}, r"encoder.depths=\(1, 2, 3\): expected four whole numbers above 0"),
        ({"dims": (4, 6, 8, 0)}, "encoder.dims=.*: expected four whole numbers above 0"),
        ({"patch": 0}, "encoder.patch=0: expected a whole number of pixels"),
        ({"last_norm_eps": 0.0}, "encoder.last_norm_eps is 0.0; expected a number above 0"),
        ({"drop_path": 1.0}, "encoder.drop_path is 1.0; expected a rate"),
        ({"remat": "all"}, "encoder.remat='all' .*none, full, dots"),
        ({"dtype": "half"}, "encoder.dtype=.*float32, bfloat16"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        convnext.create(**settings)
    assert "\n" not in str(error.value)
