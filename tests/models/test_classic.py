"""The counts that the old papers print, their equations in float64, and that each one learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.signal import correlate
from sklearn.datasets import load_digits
from traced import traced_macs

from vitjax.models import classic, heads

KEY = jax.random.key(0)
SIZES = {"zip1989": 16, "lenet5": 32, "alexnet": 63, "convpool": 10}


def shapes(encoder, size):
    return jax.eval_shape(lambda key: encoder.init(key, size), KEY)


def counts(tree):
    return {name: sum(x.size for x in jax.tree.leaves(branch)) for name, branch in tree.items()}


def images_of(batch, size, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def test_zip1989_has_the_parameters_and_connections_of_the_paper():
    encoder = classic.create("zip1989")
    have = counts(shapes(encoder, 16)["params"])
    h1, h2, h3 = 8 * 8 * 12, 4 * 4 * 12, 30  # units
    outputs = {"parameters": 30 * 10 + 10, "connections": 30 * 10 + 10}
    assert have["conv_h1"] + have["h1_bias"] == 1068
    assert have["conv_h2"] + have["h2_bias"] == 2592
    assert have["h3"] == 5790
    assert sum(have.values()) + outputs["parameters"] == 9760
    # A threshold is a connection of its unit.
    assert encoder.macs(16) + h1 + h2 + h3 + outputs["connections"] == 64_660


def test_lenet5_has_the_parameters_and_connections_of_the_paper():
    encoder = classic.create("lenet5")
    have = counts(shapes(encoder, 32)["params"])
    c3 = have["conv_c3"] + have["c3_bias"]
    layers = [have["conv_c1"], have["s2"], c3, have["s4"], have["conv_c5"], have["f6"]]
    assert layers == [156, 12, 1516, 32, 48_120, 10_164]
    assert sum(have.values()) == 60_000
    c1, s2, s4 = 28 * 28 * 6, 14 * 14 * 6 * 5, 5 * 5 * 16 * 5  # 4 inputs and a bias each
    biases, outputs = c1 + 10 * 10 * 16 + 120 + 84, 84 * 10
    assert encoder.macs(32) + biases + s2 + s4 + outputs == 340_908


# Table I of LeCun et al. 1998: which maps of S2 (rows) each map of C3 (columns) reads.
TABLE_1 = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


def full_kernel(kernel, table, maps):
    """[5, 5, pairs] -> [5, 5, maps, rows of the table], zeros where there is no connection."""
    full = np.zeros((5, 5, maps, len(table)))
    pairs = [(read, map) for map, row in enumerate(table) for read in row]
    for place, (read, map) in enumerate(pairs):
        full[:, :, read, map] = kernel[:, :, place]
    return full


def conv(x, kernel, stride=1):
    """Correlation without padding."""
    maps = [
        np.stack([correlate(image, k, "valid")[..., 0] for k in np.moveaxis(kernel, -1, 0)], -1)
        for image in x
    ]
    return np.stack(maps)[:, ::stride, ::stride]


def border(x, value):
    return np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=value)


def squash(x):
    return 1.7159 * np.tanh(2 * x / 3)


def run(encoder, variables, images):
    return jax.jit(lambda v, x: encoder.apply(v, x, layers=encoder.layers)[0])(variables, images)


def in_float64(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


def agree(got, maps, pooled):
    for name, map in maps.items():
        np.testing.assert_allclose(got.layers[name], map, atol=1e-5)
        np.testing.assert_allclose(got.vectors[name], map.mean((1, 2)), atol=1e-5)
    np.testing.assert_array_equal(got.patches, got.layers[list(maps)[-1]])
    np.testing.assert_array_equal(got.tokens, got.patches.reshape(got.tokens.shape))
    np.testing.assert_allclose(got.pooled, pooled, atol=1e-5)


def test_each_map_of_h2_reads_eight_maps_and_each_map_of_h1_is_read_eight_times():
    assert [len(set(row)) for row in classic.H2_READS] == [8] * 12
    assert np.bincount(np.ravel(classic.H2_READS)).tolist() == [8] * 12


def test_weights_start_within_2_4_over_the_inputs_of_their_unit():
    encoder = classic.create("lenet5")
    fresh = jax.jit(lambda key: encoder.init(key, 32)["params"])(KEY)
    inputs = {"conv_c1": 25, "conv_c5": 400, "f6": 120}
    for name, F in inputs.items():
        np.testing.assert_allclose(np.abs(fresh[name]["kernel"]).max(), 2.4 / F, rtol=0.03)
    kernel = np.abs(fresh["conv_c3"]["kernel"])
    for pairs, maps in ((slice(18), 3), (slice(18, 54), 4), (slice(54, 60), 6)):
        np.testing.assert_allclose(kernel[:, :, pairs].max(), 2.4 / (25 * maps), rtol=0.03)


def test_zip1989_is_its_description_in_float64(fill):
    """One kernel per map, one threshold per unit, and -1 beyond every border."""
    encoder = classic.create("zip1989")
    variables, images = fill(encoder, 16), images_of(2, 16)
    p = in_float64(variables)
    x = border(images.astype(np.float64).mean(-1, keepdims=True), -1)
    h1 = squash(conv(x, p["conv_h1"]["kernel"], 2) + p["h1_bias"])
    kernel = full_kernel(p["conv_h2"]["kernel"], classic.H2_READS, 12)
    h2 = squash(conv(border(h1, -1), kernel, 2) + p["h2_bias"])
    h3 = squash(h2.reshape(2, -1) @ p["h3"]["kernel"] + p["h3"]["bias"])
    agree(run(encoder, variables, images), {"h1": h1, "h2": h2}, h3)


def test_lenet5_is_its_description_in_float64(fill):
    encoder = classic.create("lenet5")
    variables, images = fill(encoder, 32), images_of(2, 32)
    p = in_float64(variables)

    def subsample(x, p):
        sums = sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
        return squash(p["coefficient"] * sums + p["bias"])

    def dense(x, p):
        return squash(x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"])

    c1 = conv(images.astype(np.float64).mean(-1, keepdims=True), p["conv_c1"]["kernel"])
    c1 = squash(c1 + p["conv_c1"]["bias"])
    s2 = subsample(c1, p["s2"])
    reads = [[row for row in range(6) if TABLE_1[row][map] == "X"] for map in range(16)]
    assert [sorted(row) for row in classic.C3_READS] == reads
    kernel = full_kernel(p["conv_c3"]["kernel"], classic.C3_READS, 6)
    c3 = squash(conv(s2, kernel) + p["c3_bias"])
    s4 = subsample(c3, p["s4"])
    f6 = dense(dense(s4.reshape(2, -1), p["conv_c5"]), p["f6"])
    agree(run(encoder, variables, images), {"c1": c1, "s2": s2, "c3": c3, "s4": s4}, f6)


@pytest.mark.parametrize(("pool", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_convpool_is_its_description_in_float64(pool, reduce, fill):
    """An odd size: the last row and column of a map are dropped."""
    encoder = classic.create("convpool", pool=pool)
    variables, images = fill(encoder, 10), images_of(2, 10)
    p = in_float64(variables)

    def layer(x, p):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = np.maximum(conv(x, p["kernel"]) + p["bias"], 0)
        half = x.shape[1] // 2
        x = x[:, : 2 * half, : 2 * half].reshape(2, half, 2, half, 2, -1)
        return reduce(x, axis=(2, 4))

    conv1 = layer(images.astype(np.float64), p["conv1"])
    conv2 = layer(conv1, p["conv2"])
    hidden = np.maximum(conv2.reshape(2, -1) @ p["dense"]["kernel"] + p["dense"]["bias"], 0)
    agree(run(encoder, variables, images), {"conv1": conv1, "conv2": conv2}, hidden)


def test_convpool_is_flax_mnist_in_colour():
    """824,458 parameters is what flax prints for its example, of one channel and ten classes."""
    encoder = classic.create("convpool")
    have = sum(counts(shapes(encoder, 28)["params"]).values())
    head = jax.eval_shape(heads.classifier(encoder.width, 10).init, KEY)
    assert have + sum(leaf.size for leaf in jax.tree.leaves(head)) == 824_458 + 2 * 9 * 32


def test_alexnet_has_the_parameters_and_products_of_torchvision():
    encoder = classic.create("alexnet")
    have = sum(counts(shapes(encoder, 224)["params"]).values())
    assert have + 4096 * 1000 + 1000 == 61_100_840
    assert round((encoder.macs(224) + 4096 * 1000) / 1e9, 3) == 0.714


# Products with the zeros of connections that are not there: computed, not counted.
ZEROS = {"zip1989": 4 * 4 * 25 * 12 * (12 - 8), "lenet5": 10 * 10 * 25 * (16 * 6 - 60)}
ZEROS |= {"alexnet": 0, "convpool": 0}


@pytest.mark.parametrize("variant", SIZES)
def test_macs_are_those_of_the_traced_program(variant):
    encoder, size = classic.create(variant), SIZES[variant]
    program = jax.make_jaxpr(encoder.apply)(shapes(encoder, size), jnp.zeros((1, size, size, 3)))
    assert traced_macs(program.jaxpr) == encoder.macs(size) + ZEROS[variant]


@functools.cache
def digits():
    """[1797, 8, 8] between -1 (paper) and 1, and labels."""
    images, labels = load_digits(return_X_y=True)
    return np.float32(images.reshape(-1, 8, 8) / 8 - 1), labels


# Side, images a step, steps, learning rate.
LEARN = {
    "zip1989": (16, 16, 30, 1e-2),
    "lenet5": (32, 32, 30, 5e-3),
    "alexnet": (64, 32, 40, 1e-3),
    "convpool": (8, 16, 40, 1e-2),
}


@pytest.mark.parametrize("variant", LEARN)
def test_digits_are_learned(variant, monkeypatch):
    """Ten classes: an untrained head starts at log 10 = 2.3. AlexNet an eighth as wide and without
    dropout: its 57 million parameters take longer than a test may."""
    side, batch, steps, rate = LEARN[variant]
    settings = {"dropout": 0.0} if variant == "alexnet" else {}
    monkeypatch.setattr(
        classic, "ALEXNET", tuple((row[0] // 8, *row[1:]) for row in classic.ALEXNET)
    )
    monkeypatch.setattr(classic, "HIDDEN", 256)
    encoder = classic.create(variant, **settings)
    images, labels = digits()
    images = images.repeat(side // 8, 1).repeat(side // 8, 2)[..., None].repeat(3, -1)
    head = heads.classifier(256 if variant == "alexnet" else encoder.width, 10)
    tx = optax.adam(rate)

    @jax.jit
    def start(key):
        params = encoder.init(key, side)["params"], head.init(key)
        return params, tx.init(params)

    @jax.jit
    def step(params, opt, x, y):
        def loss(params):
            variables = {"params": params[0], "stats": {}}
            pooled = encoder.apply(variables, x, train=True)[0].pooled
            logits = head.apply(params[1], pooled)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the step count
            updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    params, opt = start(KEY)
    losses = []
    for i in range(steps):
        rows = slice(i * batch, (i + 1) * batch)
        params, opt, loss = step(params, opt, images[rows], labels[rows])
        losses.append(float(loss))
    assert abs(losses[0] - np.log(10)) < 1e-3
    print(variant, np.mean(losses[-5:]))
    assert np.mean(losses[-5:]) < 1.5, losses


def test_dropout_is_alexnets_and_needs_a_key():
    encoder = classic.create("alexnet")
    variables, images = shapes(encoder, 63), jnp.zeros((1, 63, 63, 3))
    with pytest.raises(ValueError, match=r"^training with encoder.dropout above 0 needs key="):
        jax.eval_shape(functools.partial(encoder.apply, train=True), variables, images)
    still = classic.create("alexnet", dropout=0.0)
    jax.eval_shape(functools.partial(still.apply, train=True), variables, images)


def test_dropout_acts_before_each_hidden_layer(monkeypatch):
    monkeypatch.setattr(classic, "HIDDEN", 8)
    identity = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
    params = {"params": {"up": identity, "down": identity}}
    hidden = classic.Hidden(0.5, True, jnp.float32)
    y = hidden.apply(params, jnp.ones((64, 8)), rngs={"dropout": KEY})
    assert set(np.unique(y)) == {0.0, 4.0}  # kept twice with chance 1/2, doubled each time
    assert 0.15 < (y > 0).mean() < 0.35


@pytest.mark.parametrize(
    ("variant", "made", "size", "line"),
    [
        ("zip1989", 16, (32, 32), "^image size 32x32: encoder.variant zip1989 takes 16x16 only"),
        ("zip1989", 16, (16, 17), "^image size 16x17: encoder.variant zip1989 takes 16x16 only"),
        ("lenet5", 32, (28, 28), "^image size 28x28: encoder.variant lenet5 takes 32x32 only"),
        ("alexnet", 63, (62, 64), "^image size 62x64: .* alexnet takes 63 pixels a side or more"),
        ("convpool", 4, (3, 3), "^image size 3x3: .* convpool takes 4 pixels a side or more"),
        ("convpool", 16, (20, 20), "^image size 20x20 does not fit .* made for 16 to 19 pixels"),
        ("convpool", 16, (8, 32), "^image size 8x32 does not fit .* made for 16 to 19 pixels"),
    ],
)
def test_a_size_that_does_not_fit_is_one_line(variant, made, size, line):
    encoder = classic.create(variant)
    with pytest.raises(ValueError, match=line) as error:
        jax.eval_shape(encoder.apply, shapes(encoder, made), jnp.zeros((1, *size, 3)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(63, 64), (80, 224)])
def test_alexnet_takes_any_size_from_63(size):
    encoder = classic.create("alexnet")
    images = jnp.zeros((2, *size, 3))
    features, _ = jax.eval_shape(encoder.apply, shapes(encoder, 224), images)
    assert features.pooled.shape == (2, 4096) and features.patches.shape[-1] == 256


@pytest.mark.parametrize("side", [1, 7, 13])
def test_cells_of_the_adaptive_mean_cover_the_map(side):
    x = np.random.default_rng(0).normal(size=(1, side, side + 1, 2)).astype(np.float32)
    got = np.asarray(jax.jit(classic.adaptive_mean, static_argnums=1)(x, 6))
    assert got.shape == (1, 6, 6, 2)
    for i in range(6):
        for j in range(6):
            rows, columns = (
                slice(int(np.floor(k * n / 6)), int(np.ceil((k + 1) * n / 6)))
                for k, n in ((i, side), (j, side + 1))
            )
            np.testing.assert_allclose(got[0, i, j], x[0, rows, columns].mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"variant": "lenet"}, "^encoder.variant='lenet' is unknown; did you mean 'lenet5'"),
        ({"variant": "lenet5", "pool": "max"}, "^encoder.pool='max' means nothing to .*lenet5"),
        ({"variant": "convpool", "dropout": 0.5}, "^encoder.dropout=0.5 means nothing to .*convp"),
        ({"variant": "convpool", "pool": "min"}, "^encoder.pool='min' .*valid: avg, max$"),
        ({"variant": "alexnet", "dropout": 1.0}, "^encoder.dropout is 1.0; expected a rate"),
        ({"dtype": "half"}, "^encoder.dtype='half'"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, line):
    with pytest.raises(ValueError, match=line) as error:
        classic.create(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", SIZES)
def test_a_mask_is_refused(variant):
    encoder, size = classic.create(variant), SIZES[variant]
    with pytest.raises(
        ValueError, match=r"encoder.name classic takes no mask: use encoder.name vit"
    ):
        jax.eval_shape(
            lambda v: encoder.apply(v, jnp.zeros((1, size, size, 3)), mask=jnp.zeros((1, 2, 2))),
            shapes(encoder, size),
        )
