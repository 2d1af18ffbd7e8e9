"""One contract for every encoder, and the sizes the papers print."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import traced_macs

from vitjax import models

VIT = {"variant": "mu/4", "depth": 3, "width": 16, "mlp": 24, "heads": 2}
RESNET = {"variant": "18", "width": 0.125, "stem": "small"}
# What DINOv3 has beside the plain ViT.
MODERN = {
    "pool": "cls",
    "positions": "rotary",
    "registers": 2,
    "activation": "swiglu",
    "biases": "query_value",
    "layer_scale": 0.1,
    "qk_norm": True,
    "prefix_norm": True,
}
CONVNEXT = {"variant": "T", "depths": (1, 2, 1, 1), "dims": (4, 6, 8, 10), "patch": 1}
COATNET = {"variant": "0", "depths": (1, 2, 2, 1), "dims": (4, 32, 32, 64), "stem": (4, 8)}
CONVIT = {"variant": "Ti/4", "width": 32, "depth": 3, "local": 2, "mlp": 24, "mask_token": True}
SMALL = [
    ("vit", VIT),
    ("vit", VIT | {"pool": "cls", "positions": "sincos", "scan": False}),
    ("vit", VIT | {"pool": "map", "mask_token": True, "remat": "dots"}),
    ("resnet", RESNET),
    ("resnet", RESNET | {"variant": "50", "width": 0.5, "norm": "group", "stem": "imagenet"}),
    ("vit", VIT | MODERN),
    ("bit", {"variant": "R26x1", "depths": (1, 2), "width": 32}),
    ("bit", {"variant": "R26x1", "depths": (1, 2), "width": 32, "form": "postact"}),
    ("convnext", CONVNEXT),
    ("convnext", CONVNEXT | {"variant": "V2-T"}),
    ("coatnet", COATNET),
    ("coatnet", COATNET | {"variant": "0_rw"}),
    ("convit", CONVIT),
    ("mixer", {"variant": "B/8", "width": 12, "depth": 3, "token_mlp": 6, "channel_mlp": 10}),
    ("classic", {"variant": "lenet5"}),
    ("classic", {"variant": "convpool"}),
]
KEY = jax.random.key(0)


def shapes(encoder, image_size=224):
    return jax.eval_shape(lambda key: encoder.init(key, image_size), KEY)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "settings"), SMALL)
@pytest.mark.parametrize("train", [False, True])
def test_every_encoder_gives_the_same_fields(name, settings, train):
    encoder = models.create(name, **settings)
    variables = shapes(encoder, 32)
    assert set(variables) == {"params", "stats"}
    all_plain_dicts(variables)
    wanted = (encoder.layers[-1], encoder.layers[0])
    apply = functools.partial(encoder.apply, train=train, key=KEY, layers=wanted)
    features, stats = jax.eval_shape(apply, variables, jnp.zeros((2, 32, 32, 3)))

    _, side, _, D = features.patches.shape
    assert side == 32 // encoder.stride or name == "classic"  # their maps lose the border
    assert features.pooled.shape == (2, encoder.width)
    assert features.patches.shape == (2, side, side, D)
    assert encoder.width == D or name == "classic"  # they read a layer behind the map
    assert features.tokens.shape == (2, encoder.prefix + side * side, D)
    settings = {"registers": 0} | settings
    classed = ("pool", "cls") in settings.items() or name == "convit"
    assert encoder.prefix == classed + settings["registers"]
    assert set(features.layers) == set(wanted)
    assert features.layers[wanted[0]].shape == features.patches.shape
    assert all(map.ndim == 4 and map.shape[0] == 2 for map in features.layers.values())
    widths = {name: map.shape[-1] for name, map in features.layers.items()}
    assert {name: vector.shape for name, vector in features.vectors.items()} == {
        name: (2, width) for name, width in widths.items()
    }
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    assert isinstance(encoder.macs(32), int) and encoder.macs(32) > 0


@pytest.mark.parametrize(("name", "settings"), [SMALL[0], SMALL[1], SMALL[3]])
def test_the_vector_of_the_last_layer_is_what_is_pooled(name, settings):
    encoder = models.create(name, **settings)
    variables = jax.jit(lambda key: encoder.init(key, 16))(KEY)
    wanted = encoder.layers[-2:]
    images = jax.random.normal(KEY, (2, 16, 16, 3))
    features, _ = jax.jit(functools.partial(encoder.apply, layers=wanted))(variables, images)
    np.testing.assert_allclose(features.vectors[wanted[1]], features.pooled, atol=1e-5)
    if name == "resnet":
        for layer in wanted:
            want = features.layers[layer].mean((1, 2))
            np.testing.assert_allclose(features.vectors[layer], want, atol=1e-5)
        return
    # A fresh norm has scale 1 and offset 0: every vector before pooling has mean 0.
    assert np.abs(np.asarray(features.vectors[wanted[0]]).mean(-1)).max() < 1e-5
    assert np.abs(features.vectors[wanted[0]] - features.pooled).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "places"),
    [("vit", VIT, ["input", "block"]), ("resnet", RESNET, ["stem"] + 4 * ["first", "rest"])],
)
def test_every_block_output_is_held_to_the_batch_axis(name, settings, places):
    encoder = models.create(name, **settings)
    variables = shapes(encoder, 8)

    def constraints():
        program = jax.make_jaxpr(lambda *x: encoder.apply(*x)[0])(
            variables, jnp.zeros((8, 8, 8, 3))
        )
        return str(program).count("= sharding_constraint")

    assert constraints() == 0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert constraints() >= len(places)


def all_plain_dicts(tree):
    assert type(tree) is dict or not hasattr(tree, "items")
    if type(tree) is dict:
        for branch in tree.values():
            all_plain_dicts(branch)


@pytest.mark.parametrize(("name", "settings"), SMALL)
def test_bfloat16_arithmetic_leaves_parameters_and_statistics_float32(name, settings):
    encoder = models.create(name, **settings, dtype="bfloat16")
    variables = shapes(encoder, 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def loss(params, images):
        features, stats = encoder.apply(variables_with(variables, params), images, train=True)
        return features.pooled.astype(jnp.float32).sum(), (features, stats)

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    grads, (features, stats) = jax.eval_shape(
        jax.grad(loss, has_aux=True), variables["params"], images
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, stats))} == {jnp.dtype("float32")}


def variables_with(variables, params):
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables["stats"])
    return {"params": params, "stats": zeros}


@pytest.mark.parametrize(("name", "settings"), [SMALL[0], SMALL[3]])
def test_bfloat16_is_float32_to_its_precision(name, settings, fill):
    wide, narrow = (models.create(name, **settings, dtype=d) for d in ("float32", "bfloat16"))
    variables = fill(wide, 8)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    want = jax.jit(wide.apply)(variables, images)[0].pooled
    got = jax.jit(narrow.apply)(variables, images)[0].pooled.astype(jnp.float32)
    assert jnp.abs(got - want).max() < 0.05 * jnp.abs(want).max()


@pytest.mark.parametrize(
    ("name", "settings", "gflop"),
    [
        ("vit", {"variant": "S/16", "pool": "cls"}, 27.6),
        ("vit", {"variant": "B/16", "pool": "cls"}, 105.4),
        ("vit", {"variant": "L/16", "pool": "cls"}, 369.3),
        ("vit", {"variant": "g/14", "pool": "cls"}, 1602.2),
        ("resnet", {"variant": "50"}, 6 * 4.089184),  # torchvision's own count of the model
        ("resnet", {"variant": "18"}, 6 * 1.814073),
    ],
)
def test_macs_are_the_published_training_cost(name, settings, gflop):
    encoder = models.create(name, **settings)
    with_head = encoder.macs(224) + 1000 * encoder.width
    np.testing.assert_allclose(6e-9 * with_head, gflop, rtol=5e-4)


@pytest.mark.parametrize("pool", ["gap", "cls", "map"])
def test_vit_macs_are_what_the_compiler_counts(pool):
    shape = {"width": 96, "heads": 3, "mlp": 256, "depth": 2}
    encoder = models.create("vit", variant="mu/8", pool=pool, scan=False, **shape)
    images = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    pooled = jax.jit(lambda variables, images: encoder.apply(variables, images)[0].pooled)
    flops = pooled.lower(shapes(encoder, 48), images).cost_analysis()["flops"]
    assert 1.0 < flops / (2 * 2 * encoder.macs(48)) < 1.06  # it also counts norms and activations


@pytest.mark.parametrize(
    ("settings", "size"),
    [({"variant": "18"}, 65), ({"variant": "50", "stem": "small", "width": 0.5}, 33)],
)
def test_resnet_macs_are_those_of_the_traced_convolutions(settings, size):
    """Counted from the program: the compiler's own count leaves out products with padding."""
    encoder = models.create("resnet", **settings)
    jaxpr = jax.make_jaxpr(encoder.apply)(shapes(encoder, size), jnp.zeros((1, size, size, 3)))
    assert traced_macs(jaxpr.jaxpr) == encoder.macs(size)


def test_equal_settings_make_equal_encoders():
    """So an encoder can be a static argument without compiling twice."""
    for name, settings in SMALL:
        assert models.create(name, **settings) == models.create(name, **settings)
        assert hash(models.create(name, **settings)) == hash(models.create(name, **settings))
    assert models.create("vit", **VIT) != models.create("vit", **(VIT | {"pool": "map"}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: models.create("vitt"),
            r"encoder.name='vitt' is unknown; did you mean 'vit'",
        ),
        (lambda: models.create("vit", variant="B16"), "encoder.variant is 'B16'; expected a size"),
        (lambda: models.create("vit", variant="X/16"), "encoder.variant='X'.*valid: mu, Ti, S"),
        (lambda: models.create("vit", pool="gas"), "encoder.pool='gas' .*gap, cls, cls_gap, map"),
        (lambda: models.create("vit", positions="sin"), "encoder.positions=.*learned, sincos"),
        (lambda: models.create("vit", remat="all"), "encoder.remat='all' .*none, full, dots"),
        (lambda: models.create("vit", dtype="half"), "encoder.dtype=.*float32, bfloat16"),
        (lambda: models.create("vit", dropout=1.0), "encoder.dropout is 1.0"),
        (lambda: models.create("vit", width=100, heads=3), "encoder.width 100 .*encoder.heads 3"),
        (lambda: models.create("resnet", variant="51"), "encoder.variant=.*18, 34, 50, 101, 152"),
        (lambda: models.create("resnet", norm="layer"), "encoder.norm=.*batch, group"),
        (lambda: models.create("resnet", stem="big"), "encoder.stem=.*imagenet, small"),
        (lambda: models.create("resnet", width=0.3), "encoder.width is 0.3"),
        (lambda: models.create("resnet", width=0.25, norm="group"), "encoder.width is 0.25"),
    ],
)
def test_bad_settings_are_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_settings_that_do_not_exist_are_type_errors():
    for name in models.ENCODERS:
        with pytest.raises(TypeError, match="regsters"):
            models.create(name, regsters=4)
        parameters = inspect.signature(models.ENCODERS[name]).parameters.values()
        assert all(p.kind is not p.VAR_KEYWORD for p in parameters)


@pytest.mark.parametrize(("name", "settings"), [SMALL[0], SMALL[3]])
def test_unknown_layers_are_named(name, settings):
    encoder = models.create(name, **settings)
    with pytest.raises(ValueError, match=f"'block_99' is unknown; .*{encoder.layers[0]}"):
        jax.eval_shape(
            lambda v, x: encoder.apply(v, x, layers=("block_99",)),
            shapes(encoder, 8),
            jnp.zeros((1, 8, 8, 3)),
        )
