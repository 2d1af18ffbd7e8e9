"""The Vision Transformer: its forms agree, and its parts do what their papers say."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models
from vitjax.models.attention import MultiHeadAttention
from vitjax.models.layers import drop_path
from vitjax.ops.position import resample

TINY = {"variant": "mu/4", "depth": 3, "width": 16, "mlp": 24, "heads": 2}
H, W = 8, 12  # pixels: a grid of 2 by 3
IMAGES = np.random.default_rng(3).normal(size=(2, H, W, 3)).astype(np.float32)
KEY = jax.random.key(7)


def vit(**settings):
    return models.create("vit", **(TINY | {"positions": "sincos"} | settings))


def run(encoder, variables, images=IMAGES, **arguments):
    apply = jax.jit(lambda variables, images: encoder.apply(variables, images, **arguments)[0])
    return apply(variables, jnp.asarray(images))


def close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def test_attention_is_flax_attention_with_the_same_parameters():
    rng = np.random.default_rng(0)
    x, context = (jnp.asarray(rng.normal(size=(2, n, 16)), jnp.float32) for n in (5, 7))
    theirs = nn.MultiHeadDotProductAttention(num_heads=2)
    params = theirs.init(KEY, x, context)
    for arguments in [(x,), (x, context)]:
        got = MultiHeadAttention(heads=2).apply(params, *arguments)
        close(got, theirs.apply(params, x, arguments[-1]), atol=1e-6)


def test_a_forward_pass_is_the_equations_of_the_paper(fill):
    """arXiv:2010.11929, eq. 1-4 (class token after positions), in float64 NumPy, layer by layer."""
    encoder = vit(pool="cls")
    variables = fill(encoder, H)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = embed(p)
    for layer in range(3):
        x = block(x, jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"]))
    want = norm(x, p["norm"])
    got = run(encoder, variables)
    np.testing.assert_allclose(got.tokens, want, atol=2e-5)
    np.testing.assert_array_equal(got.pooled, got.tokens[:, 0])
    np.testing.assert_array_equal(got.patches.reshape(2, 6, 16), got.tokens[:, 1:])


def embed(p):
    """IMAGES as tokens: what enters the first block, in float64."""
    patches = IMAGES.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 48)
    x = patches @ p["embedding"]["kernel"].reshape(48, 16) + p["embedding"]["bias"]
    omega = 10_000.0 ** (-np.arange(4) / 3)
    y_angle, x_angle = (np.mgrid[:2, :3].reshape(2, 6, 1) * omega)[:, :]
    waves = [np.sin(x_angle), np.cos(x_angle), np.sin(y_angle), np.cos(y_angle)]
    x = x + np.concatenate(waves, axis=-1)
    if "cls" not in p:
        return x
    return np.concatenate([np.broadcast_to(p["cls"], (2, 1, 16)), x], axis=1)


def project(x, p):
    """Queries, keys and values of a block, each [B, H, N, D / H]."""
    y, a = norm(x, p["norm1"]), p["attention"]
    return [
        np.einsum("bnd,dhe->bhne", y, a[name]["kernel"]) + a[name]["bias"][:, None]
        for name in ("query", "key", "value")
    ]


def block(x, p, weights=None):
    q, k, v = project(x, p)
    if weights is None:
        scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(8))
        weights = scores / scores.sum(-1, keepdims=True)
    heads, a = weights @ v, p["attention"]
    x = x + np.einsum("bhne,hed->bnd", heads, a["out"]["kernel"]) + a["out"]["bias"]
    y = norm(x, p["norm2"]) @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"]
    y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return x + y @ p["mlp"]["down"]["kernel"] + p["mlp"]["down"]["bias"]


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def test_scan_and_unrolled_have_the_same_parameters_numbers_and_gradients(fill):
    """In training too: the same key drops the same units and samples in both forms."""
    settings = {"drop_path": 0.3, "depth": 2}
    scanned, unrolled = (vit(scan=scan, **settings) for scan in (True, False))
    variables = fill(scanned, H)
    same = jax.eval_shape(lambda key: unrolled.init(key, H), KEY)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, variables)

    def loss(encoder):
        def f(params):
            variables = {"params": params, "stats": {}}
            features, _ = encoder.apply(
                variables, jnp.asarray(IMAGES), train=True, key=KEY, layers=encoder.layers
            )
            return (features.pooled**2).sum(), features

        return jax.jit(jax.grad(f, has_aux=True))

    got, want = loss(unrolled)(variables["params"]), loss(scanned)(variables["params"])
    close(got, want, rtol=1e-4, atol=2e-5)


def test_remat_keeps_less_and_changes_no_gradient(fill):
    variables = fill(vit(), H)
    grads, kept = {}, {}
    for remat in ("none", "dots", "full"):
        encoder = vit(remat=remat, drop_path=0.3)

        def loss(params, encoder=encoder):
            variables = {"params": params, "stats": {}}
            features, _ = encoder.apply(variables, jnp.asarray(IMAGES), train=True, key=KEY)
            return (features.pooled**2).sum()

        grads[remat] = jax.jit(jax.grad(loss))(variables["params"])
        saved = jax.eval_shape(lambda params, f=loss: jax.vjp(f, params)[1], variables["params"])
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(saved))
    close(grads["full"], grads["none"], rtol=1e-5, atol=1e-6)
    close(grads["dots"], grads["none"], rtol=1e-5, atol=1e-6)
    assert kept["full"] < kept["dots"] < kept["none"]


@pytest.mark.parametrize("settings", [{}, {"remat": "dots", "drop_path": 0.1}])
def test_the_traced_program_does_not_grow_with_depth(settings):
    def length(depth):
        encoder = vit(depth=depth, **settings)
        variables = jax.eval_shape(lambda key: encoder.init(key, H), KEY)

        def loss(variables):
            features, _ = encoder.apply(variables, jnp.asarray(IMAGES), train=True, key=KEY)
            return features.pooled.sum()

        return len(str(jax.make_jaxpr(jax.grad(loss))(variables)))

    assert length(12) < 1.01 * length(4)


def test_patches_are_a_set_but_for_their_positions(fill):
    encoder = vit(positions="learned", pool="map")
    variables = fill(encoder, H)
    table = np.random.default_rng(1).normal(size=(H // 4, W // 4, 16)).astype(np.float32)
    variables["params"]["position_embedding"] = jnp.zeros(table.shape)
    order = np.random.default_rng(0).permutation(6)
    cut = IMAGES.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 4, 4, 3)
    shuffled = cut[:, order].reshape(2, 2, 3, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    before, after = run(encoder, variables), run(encoder, variables, shuffled.reshape(2, H, W, 3))
    np.testing.assert_allclose(after.tokens, before.tokens[:, order], atol=1e-5)
    np.testing.assert_allclose(after.pooled, before.pooled, atol=1e-5)
    variables["params"]["position_embedding"] = jnp.asarray(table)
    moved = run(encoder, variables, shuffled.reshape(2, H, W, 3))
    assert np.abs(moved.pooled - run(encoder, variables).pooled).max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "prefix"), [({"pool": "cls"}, 1), ({"depth": 1}, 0), ({"dtype": "bfloat16"}, 0)]
)
def test_attention_of_every_block_is_flaxs_and_that_of_the_last_gives_its_output(
    settings, prefix, fill
):
    encoder = vit(**settings)
    variables = fill(encoder, H)
    names = [name for name, before in encoder.attends if before == prefix == encoder.prefix]
    assert names == list(encoder.layers)
    everywhere = jax.jit(partial(encoder.attention, names=names))(variables, jnp.asarray(IMAGES))
    got = everywhere[names[-1]]
    assert got.shape == (2, 2, 6 + prefix, 6 + prefix) and got.dtype == jnp.float32
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = embed(p)
    blocks = [
        jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"]) for i in range(len(encoder.layers))
    ]
    for name, before in zip(names, blocks[:-1], strict=False):
        q, k, _ = (jnp.asarray(y.swapaxes(1, 2), jnp.float32) for y in project(x, before))
        want = nn.dot_product_attention_weights(q, k)
        np.testing.assert_allclose(
            everywhere[name], want, atol=0.05 if "dtype" in settings else 1e-5
        )
        x = block(x, before)
    q, k, _ = (jnp.asarray(part.swapaxes(1, 2), jnp.float32) for part in project(x, blocks[-1]))
    bfloat16 = "dtype" in settings
    want = nn.dot_product_attention_weights(q, k)
    np.testing.assert_allclose(got, want, atol=0.05 if bfloat16 else 1e-5)
    tokens = norm(block(x, blocks[-1], np.asarray(got, np.float64)), p["norm"])
    features = run(encoder, variables)
    np.testing.assert_allclose(np.float32(features.tokens), tokens, atol=0.2 if bfloat16 else 2e-5)


def test_an_encoder_without_attention_has_none():
    resnet = models.create("resnet", variant="18")
    assert resnet.attention is None and resnet.attends == () and resnet.prefix == 0


@pytest.mark.parametrize("pool", ["gap", "cls", "map"])
def test_layers_are_block_outputs_before_the_last_norm(pool, fill):
    encoder = vit(pool=pool)
    variables = fill(encoder, H)
    features = run(encoder, variables, layers=("block_02", "block_00"))
    last = nn.LayerNorm(epsilon=1e-6).apply(
        {"params": variables["params"]["norm"]}, features.layers["block_02"]
    )
    np.testing.assert_allclose(last, features.patches, atol=1e-5)
    shallow = vit(pool=pool, depth=1)
    first = {k: v for k, v in variables["params"].items() if k != "blocks"}
    first["blocks"] = jax.tree.map(lambda leaf: leaf[:1], variables["params"]["blocks"])
    alone = run(shallow, {"params": first, "stats": {}}, layers=("block_00",))
    np.testing.assert_allclose(features.layers["block_00"], alone.layers["block_00"], atol=1e-5)
    if pool == "gap":
        np.testing.assert_allclose(features.pooled, features.tokens.mean(1), atol=1e-6)


def test_hidden_patches_are_not_seen(fill):
    encoder = vit(mask_token=True)
    variables = fill(encoder, H)
    mask = np.zeros((2, 2, 3), bool)
    mask[0, 1, 2] = True  # the lower right patch of the first image
    changed = IMAGES.copy()
    changed[:, 4:, 8:] += 5.0
    before, after = (run(encoder, variables, x, mask=jnp.asarray(mask)) for x in (IMAGES, changed))
    np.testing.assert_array_equal(after.tokens[0], before.tokens[0])
    assert np.abs(after.tokens[1] - before.tokens[1]).min(axis=-1).max() > 0
    unmasked = run(encoder, variables)
    np.testing.assert_allclose(before.tokens[1], unmasked.tokens[1], atol=1e-6)
    assert np.abs(before.tokens[0] - unmasked.tokens[0]).max() > 1e-2
    # Positions are added after the mask token, so two hidden patches stay apart.
    mask[0] = True
    hidden = run(encoder, variables, mask=jnp.asarray(mask)).tokens[0]
    assert np.abs(hidden[:, None] - hidden[None]).max(-1)[~np.eye(6, dtype=bool)].min() > 1e-3


def test_a_mask_needs_its_token(fill):
    encoder = vit()
    with pytest.raises(ValueError, match=r"set encoder.mask_token to True"):
        run(encoder, fill(encoder, H), mask=jnp.zeros((2, 2, 3), bool))


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2, 3)), jnp.float32)
    got = np.asarray(drop_path(x, jnp.float32(0.4), KEY))
    alive = np.any(got != 0, axis=(1, 2))
    np.testing.assert_allclose(got[alive], x[alive] / 0.6, rtol=1e-6)
    assert abs(alive.mean() - 0.6) < 4 * np.sqrt(0.24 / 4000)
    np.testing.assert_array_equal(drop_path(x, jnp.float32(0.0), KEY), x)
    narrow = drop_path(x.astype(jnp.bfloat16), jnp.float32(0.4), KEY)
    assert narrow.dtype == jnp.bfloat16


def test_stochastic_depth_grows_linearly_from_zero(fill):
    """A block that adds nothing to a sample has dropped both branches: chance rate squared."""
    encoder = vit(drop_path=0.8, positions="learned")
    variables = fill(encoder, 4)
    images = np.random.default_rng(0).normal(size=(600, 4, 4, 3)).astype(np.float32)
    layers = run(encoder, variables, images, train=True, key=KEY, layers=encoder.layers).layers
    evaluated = run(encoder, variables, images, layers=("block_00",)).layers["block_00"]
    np.testing.assert_allclose(layers["block_00"], evaluated, atol=1e-5)  # its rate is 0
    for name, before, rate in [("block_01", "block_00", 0.4), ("block_02", "block_01", 0.8)]:
        still = np.all(layers[name] == layers[before], axis=(1, 2, 3)).mean()
        assert abs(still - rate**2) < 4 * np.sqrt(rate**2 * (1 - rate**2) / 600)


def test_randomness_is_the_key_alone(fill):
    encoder = vit(dropout=0.3, drop_path=0.3)
    variables = fill(encoder, H)
    train = jax.jit(lambda key: encoder.apply(variables, jnp.asarray(IMAGES), True, key)[0].pooled)
    np.testing.assert_array_equal(train(KEY), train(KEY))
    assert np.abs(train(KEY) - train(jax.random.key(8))).max() > 1e-2
    evaluated = run(encoder, variables)
    assert np.abs(train(KEY) - evaluated.pooled).max() > 1e-2
    close(run(vit(), variables, train=True), evaluated, atol=1e-6)  # rate 0: training is evaluation
    with pytest.raises(
        ValueError, match=r"encoder.dropout or encoder.drop_path above 0 needs key="
    ):
        run(encoder, variables, train=True)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (10, "image size 10 is not a multiple of the patch size 4: set views.size to 8 or 12, or "),
        (3, "set views.size to 4, or change the patch in encoder.variant"),
    ],
)
def test_image_sizes_that_do_not_fit_are_named(size, message, fill):
    encoder = vit()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: encoder.init(key, size), KEY)
    with pytest.raises(ValueError, match=message):
        run(encoder, fill(encoder, 8), np.zeros((1, size, 8, 3), np.float32))


@pytest.mark.parametrize("positions", ["sincos", "learned", "rotary"])
def test_every_kind_of_positions_takes_another_grid(positions, fill):
    encoder = vit(positions=positions)
    variables = fill(encoder, 8)
    assert run(encoder, variables).patches.shape == (2, 2, 3, 16)
    if positions == "learned":
        table = variables["params"]["position_embedding"]
        moved = vit(positions=positions, resample="linear")
        there = dict(variables["params"]) | {"position_embedding": resample(table, 2, 3, "linear")}
        got, want = run(moved, variables), run(moved, {"params": there, "stats": {}})
        close(got, want, atol=1e-6)


def test_fresh_parameters_are_big_visions():
    """Xavier uniform kernels, per layer; MLP biases 1e-6; positions 1/sqrt(D); zeros elsewhere."""
    encoder = vit(width=64, heads=2, mlp=128, positions="learned", pool="cls")
    p = jax.jit(lambda key: encoder.init(key, 32))(KEY)["params"]
    for kernel, fan_in, fan_out in [
        (p["blocks"]["attention"]["query"]["kernel"], 64, 64),
        (p["blocks"]["attention"]["out"]["kernel"], 64, 64),
        (p["blocks"]["mlp"]["up"]["kernel"], 64, 128),
        (p["blocks"]["mlp"]["down"]["kernel"], 128, 64),
    ]:
        bound = np.sqrt(6 / (fan_in + fan_out))
        assert 0.99 * bound < jnp.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.03)
        assert np.abs(kernel[0] - kernel[1]).max() > bound / 2  # no two layers alike
    np.testing.assert_allclose(p["blocks"]["mlp"]["up"]["bias"].std(), 1e-6, rtol=0.2)
    np.testing.assert_allclose(p["position_embedding"].std(), 1 / 8, rtol=0.1)
    np.testing.assert_allclose(p["embedding"]["kernel"].std(), 1 / np.sqrt(48), rtol=0.1)
    for zeros in (p["cls"], p["embedding"]["bias"], p["blocks"]["attention"]["query"]["bias"]):
        np.testing.assert_array_equal(zeros, 0)
