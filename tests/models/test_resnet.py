"""ResNet against SciPy's correlation in float64, and its batch statistics on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.signal import correlate

from vitjax import models
from vitjax.models.stack import REMAT

TINY = {"variant": "18", "width": 0.0625, "stem": "small"}  # 4, 8, 16, 32 channels
KEY = jax.random.key(0)


def resnet(**settings):
    return models.create("resnet", **(TINY | settings))


def images_of(batch, size, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def conv(x, kernel, stride=1):
    """PyTorch's Conv2d with padding k // 2: pad with zeros, correlate, take every stride-th."""
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    maps = [
        np.stack([correlate(image, k, "valid")[..., 0] for k in np.moveaxis(kernel, -1, 0)], -1)
        for image in x
    ]
    return np.stack(maps)[:, ::stride, ::stride]


def norm(x, p, s):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def block(x, p, s, stride):
    """v1.5: the stride is on the first 3x3."""
    y, last = x, 3 if "conv3" in p else 2
    for i in range(1, last + 1):
        here = stride if i == last - 1 else 1
        y = norm(conv(y, p[f"conv{i}"]["kernel"], here), p[f"norm{i}"], s[f"norm{i}"])
        y = relu(y) if i < last else y
    if "shortcut_conv" in p:
        x = conv(x, p["shortcut_conv"]["kernel"], stride)
        x = norm(x, p["shortcut_norm"], s["shortcut_norm"])
    return relu(x + y)


def stem(images, p, s):
    x = relu(norm(conv(images, p["stem_conv"]["kernel"], 2), p["stem_norm"], s["stem_norm"]))
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows.max(axis=(-1, -2))[:, ::2, ::2]


@pytest.mark.parametrize(
    ("variant", "width", "stages", "size"), [("18", 0.0625, 4, 33), ("50", 0.03125, 2, 32)]
)
def test_forward_is_scipy_in_float64(variant, width, stages, size, fill):
    """Odd and even sizes: where XLA's SAME padding would differ."""
    encoder = resnet(variant=variant, width=width, stem="imagenet")
    variables = fill(encoder, size)
    p, s = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables[name])
        for name in ("params", "stats")
    )
    images = images_of(2, size)
    got = jax.jit(lambda v, x: encoder.apply(v, x, layers=encoder.layers)[0])(variables, images)

    x = stem(images, p, s)
    np.testing.assert_allclose(got.layers["stem"], x, atol=1e-4)
    for stage in range(1, stages + 1):
        name = f"stage_{stage}"
        x = block(x, p[name]["first"], s[name]["first"], 1 if stage == 1 else 2)
        for i in range(len(p[name]["blocks"]["conv1"]["kernel"])):
            rest = jax.tree.map(lambda leaf, i=i: leaf[i], (p[name]["blocks"], s[name]["blocks"]))
            x = block(x, *rest, 1)
        np.testing.assert_allclose(got.layers[name], x, rtol=1e-4, atol=1e-4 * np.abs(x).max())
    if stages == 4:
        np.testing.assert_array_equal(got.patches, got.layers["stage_4"])
        np.testing.assert_allclose(got.pooled, x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(got.tokens, got.patches.reshape(got.tokens.shape))


PART = ("stem_conv", "stem_norm", "stage_1", "stage_2")  # half of it compiles in half the time


def trained(encoder, variables, images):
    """(gradients, (map, new statistics)) of one training pass through PART."""

    def loss(params, stats, images):
        variables = {"params": params, "stats": stats}
        features, stats = encoder.apply(variables, images, train=True, layers=PART[-1:])
        last = features.layers[PART[-1]]
        return (last**2).mean(), (last, {name: stats[name] for name in PART[1:]})

    @jax.jit
    def run(variables, images):
        grads, out = jax.grad(loss, has_aux=True)(variables["params"], variables["stats"], images)
        return {name: grads[name] for name in PART}, out

    return run(variables, jnp.asarray(images))


def close(got, want, tolerance=2e-4):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())

    jax.tree.map(check, got, want)


def test_unrolled_is_scanned_and_rematerialised_statistics_included(fill):
    encoder = resnet(variant="34", scan=False)
    variables, images = fill(encoder, 8), images_of(4, 8)
    want = trained(encoder, variables, images)
    close(trained(resnet(variant="34", remat="dots"), variables, images), want)


def test_remat_keeps_less():
    def kept(remat):
        encoder = resnet(remat=remat)
        variables = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)

        def loss(params, stats):
            images = jnp.zeros((4, 8, 8, 3))
            return encoder.apply({"params": params, "stats": stats}, images, True)[0].pooled.sum()

        saved = jax.eval_shape(
            lambda p, s: jax.vjp(lambda p: loss(p, s), p)[1],
            variables["params"],
            variables["stats"],
        )
        return sum(leaf.size for leaf in jax.tree.leaves(saved))

    assert list(REMAT) == ["none", "full", "dots"]
    assert kept("full") < kept("dots") < kept("none")


def test_statistics_are_of_the_global_batch_on_any_mesh(fill):
    encoder = resnet()
    variables, images = fill(encoder, 8), images_of(16, 8)
    images[::2] += 3.0  # shards of two differ from each other in the mean of the odd ones only
    images[8:] *= 2.0  # and the devices differ in variance
    want = trained(encoder, variables, images)

    mesh = jax.make_mesh((2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(images, NamedSharding(mesh, P(("replica", "data"))))
        got = trained(encoder, jax.device_put(variables, NamedSharding(mesh, P())), placed)
    close(got, want)

    # The definition (arXiv:1502.03167, algorithm 1), for the first norm.
    x = conv(images.astype(np.float64), np.float64(variables["params"]["stem_conv"]["kernel"]))
    before, after = variables["stats"]["stem_norm"], got[1][1]["stem_norm"]
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * var, rtol=1e-4)


def test_evaluation_leaves_statistics_alone_and_looks_at_one_image_only(fill):
    encoder = resnet()
    variables, images = fill(encoder, 8), images_of(4, 8)
    encode = jax.jit(encoder.apply)
    features, stats = encode(variables, images)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["stats"])
    alone, _ = encode(variables, np.concatenate([images[:1], images_of(3, 8, seed=1)]))
    np.testing.assert_allclose(alone.pooled[0], features.pooled[0], rtol=1e-5, atol=1e-6)


def test_group_norm_has_no_statistics_and_looks_at_one_image_only(fill):
    encoder = resnet(norm="group", width=0.5)
    variables, images = fill(encoder, 8), images_of(2, 8)
    assert variables["stats"] == {}
    encode = jax.jit(lambda images: encoder.apply(variables, images, True)[0].pooled)
    other = np.concatenate([images[:1], images_of(1, 8, seed=1)])
    np.testing.assert_allclose(encode(images)[0], encode(other)[0], rtol=1e-5, atol=1e-6)
    assert np.abs(encode(images)[1] - encode(other)[1]).max() > 1e-2


@pytest.mark.parametrize("zero_init", [True, False])
def test_zero_init_starts_each_equal_block_as_the_identity(zero_init):
    encoder = resnet(zero_init=zero_init)
    shapes = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)
    fresh = jax.jit(lambda key: select_scales(encoder.init(key, 8)["params"]))(KEY)
    assert len(fresh) == 1 + 4 * 4 + 3 and len(jax.tree.leaves(shapes)) > len(fresh)
    for path, scale in fresh.items():
        np.testing.assert_array_equal(scale, 0 if zero_init and path.endswith("norm2") else 1)


def select_scales(params):
    """Only these leaves, so that the rest of the initialiser is never compiled."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
    return {path[: -len("/scale")]: x for path, x in named.items() if path.endswith("/scale")}


def test_kernels_start_he_normal_by_fan_out_and_no_two_alike():
    encoder = resnet(variant="34", width=1)

    def kernels(key):
        stage = encoder.init(key, 8)["params"]["stage_1"]
        return stage["blocks"]["conv1"]["kernel"]

    kernel = jax.jit(kernels)(KEY)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert np.abs(kernel).max() > 3.5 * kernel.std()  # not truncated


def test_the_traced_program_does_not_grow_with_depth():
    def length(variant):
        encoder = resnet(variant=variant)
        variables = jax.eval_shape(lambda key: encoder.init(key, 8), KEY)

        def loss(variables):
            return encoder.apply(variables, jnp.zeros((2, 8, 8, 3)), True)[0].pooled.sum()

        return len(str(jax.make_jaxpr(jax.grad(loss))(variables)))

    assert length("152") < 1.01 * length("50")


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("small", 8, 1), ("small", 9, 2), ("imagenet", 65, 3)]
)
def test_any_size_down_to_digits_is_taken(stem, size, side):
    encoder = resnet(stem=stem)
    variables = jax.eval_shape(lambda key: encoder.init(key, size), KEY)
    features, _ = jax.eval_shape(encoder.apply, variables, jnp.zeros((2, size, size, 3)))
    assert features.patches.shape == (2, side, side, 32)
    assert encoder.stride == (8 if stem == "small" else 32)


def test_a_mask_without_its_token_is_refused(fill):
    encoder = resnet()
    with pytest.raises(
        ValueError, match=r"mask= needs a mask token: set encoder.mask_token to True"
    ):
        encoder.apply(fill(encoder, 8), images_of(1, 8), mask=jnp.zeros((1, 1, 1), bool))
