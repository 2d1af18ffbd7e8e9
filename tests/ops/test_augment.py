"""Views: what they depend on, what they give, and what they refuse."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.ops import augment

B, S, SIZE, CLASSES = 16, 23, 12, 5
EVERYTHING = {"color_jitter": (0.4, 0.4, 0.4, 0.1), "erasing": 0.5}
MIXED = {"crop": "none", "flip": False, "mixup": 0.8, "cutmix": 1.0}


def make_batch(rows=B, side=S, full=False):
    rng = np.random.default_rng(0)
    size = rng.integers(side // 2, side + 1, (rows, 2)).astype(np.int32)
    size = np.full((rows, 2), side, np.int32) if full else size
    image = rng.integers(0, 256, (rows, side, side, 3), np.uint8)
    for row, (h, w) in zip(image, size, strict=True):
        row[h:], row[:, w:] = 0, 0
    return {
        "image": image,
        "size": size,
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        "index": (1000 + 7 * np.arange(rows)).astype(np.uint32),
        "epoch": np.full(rows, 3, np.uint32),
    }


@functools.cache
def jitted(**settings):
    return jax.jit(functools.partial(augment.train_views, classes=CLASSES, size=SIZE, **settings))


def rows_of(batch, rows):
    return {name: array[rows] for name, array in batch.items()}


def test_a_view_depends_on_key_epoch_and_index_alone():
    batch, key = make_batch(), jax.random.key(0)
    views = np.asarray(jitted(**EVERYTHING)(batch, key)["image"])
    assert len(np.unique(views.reshape(B, -1), axis=0)) == B

    order = np.random.default_rng(1).permutation(B)
    permuted = jitted(**EVERYTHING)(rows_of(batch, order), key)["image"]
    np.testing.assert_allclose(permuted, views[order], atol=1e-5)
    other = make_batch()  # the same rows 5..11 in other company
    for name in other:
        other[name][:5], other[name][12:] = other[name][7:12], other[name][:4]
    part = jitted(**EVERYTHING)(other, key)["image"]
    np.testing.assert_allclose(part[5:12], views[5:12], atol=1e-5)


@pytest.mark.parametrize("change", ["key", "epoch", "index"])
def test_another_key_epoch_or_index_gives_another_view(change):
    batch, key = make_batch(), jax.random.key(0)
    before = np.asarray(jitted(**EVERYTHING)(batch, key)["image"])
    if change == "key":
        key = jax.random.key(1)
    else:
        batch[change] = batch[change] + np.uint32(1)
    after = np.asarray(jitted(**EVERYTHING)(batch, key)["image"])
    assert (np.abs(after - before).max(axis=(1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("settings", [EVERYTHING, MIXED])
def test_eight_devices_give_what_one_gives(settings):
    batch, key = make_batch(), jax.random.key(0)
    one = jitted(**settings)(batch, key)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(batch, NamedSharding(mesh, P("data")))
    eight = jitted(**settings)(split, key)
    assert len(eight["image"].sharding.device_set) == 8
    np.testing.assert_allclose(eight["image"], one["image"], atol=1e-5)
    np.testing.assert_allclose(eight["label"], one["label"], atol=1e-6)


def test_labels_are_soft_targets():
    batch = make_batch()
    label = np.asarray(jitted(**EVERYTHING)(batch, jax.random.key(0))["label"])
    np.testing.assert_array_equal(label, np.eye(CLASSES, dtype=np.float32)[batch["label"]])
    label = np.asarray(jitted(**MIXED)(batch, jax.random.key(0))["label"])
    np.testing.assert_allclose(label.sum(axis=1), 1.0, atol=1e-6)
    assert (label > 0).sum() > B


def test_the_whole_image_without_flip_is_only_normalised():
    batch = make_batch(side=SIZE, full=True)
    run = jitted(crop="none", flip=False, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    got = run(batch, jax.random.key(0))["image"]
    want = (batch["image"] / 255.0 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_flips_half_of_the_images():
    batch = make_batch(rows=400, side=SIZE, full=True)
    run = jitted(crop="none", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    got = np.rint(255 * np.asarray(run(batch, jax.random.key(0))["image"])).astype(np.uint8)
    same = (got == batch["image"]).all(axis=(1, 2, 3))
    mirrored = (got == batch["image"][:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1


def test_a_policy_works_on_the_crop_before_it_is_normalised():
    batch, key = make_batch(side=SIZE, full=True), jax.random.key(0)
    plain = {"crop": "none", "flip": False, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    run = functools.partial(augment.train_views, classes=CLASSES, size=SIZE, **plain)
    invert = {"name": "stub", "by": 255.0}
    with pytest.MonkeyPatch.context() as patch:
        stub = {"stub": lambda image, key, *, by: by - image}
        patch.setattr(augment, "POLICIES", stub)
        got = run(batch, key, policy=invert)["image"]
    np.testing.assert_allclose(got, (255 - batch["image"]) / np.float32(255), atol=1e-6)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match=r"views\.policy\.name='autoaugmnt' is unknown; did you"):
        augment.train_views(
            make_batch(),
            jax.random.key(0),
            classes=CLASSES,
            size=SIZE,
            policy={"name": "autoaugmnt"},
        )


def test_pad_shifts_into_zeros_by_every_offset():
    pad = 2
    batch = make_batch(rows=300, side=SIZE, full=True)
    run = jitted(crop="pad", pad=pad, flip=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    got = np.rint(255 * np.asarray(run(batch, jax.random.key(0))["image"])).astype(np.uint8)
    padded = np.pad(batch["image"], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    matches = np.array(
        [
            (padded[:, dy : dy + SIZE, dx : dx + SIZE] == got).all(axis=(1, 2, 3))
            for dy in range(2 * pad + 1)
            for dx in range(2 * pad + 1)
        ]
    )
    assert (matches.sum(axis=0) == 1).all()
    assert (matches.sum(axis=1) > 0).all()


def test_evaluation_keeps_labels_and_normalises_the_centre():
    batch = make_batch(side=SIZE, full=True)
    batch["label"][-1] = -1
    run = jax.jit(functools.partial(augment.eval_views, size=SIZE, crop=1.0, dtype="bfloat16"))
    views = run(batch)
    assert views["image"].dtype == "bfloat16" and views["label"].dtype == "int32"
    np.testing.assert_array_equal(views["label"], batch["label"])
    mean, std = np.array(augment.IMAGENET_MEAN), np.array(augment.IMAGENET_STD)
    want = (batch["image"] / 255.0 - mean) / std
    np.testing.assert_allclose(views["image"].astype("float32"), want, atol=1e-5, rtol=2**-8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("area", (0.0, 1.0)),
        ("area", (0.5, 1.5)),
        ("ratio", (2.0, 0.5)),
        ("crop", "centre"),
        ("pad", -1),
        ("method", "lanczos"),
        ("policy", "autoaugment"),
        ("policy", {"magnitude": 3}),
        ("policy", {"name": "autoaugment", "magnitude": 3}),
        ("color_jitter", -0.1),
        ("color_jitter", (0.4, 0.4)),
        ("color_jitter", (0.4, 0.4, 0.4, 0.6)),
        ("erasing", 1.5),
        ("erasing_mode", "constant"),
        ("mixup", -1.0),
        ("cutmix", -1.0),
        ("mix_mode", "device"),
        ("mean", (0.5,)),
        ("std", (0.5, 0.0, 0.5)),
        ("dtype", "uint8"),
    ],
)
def test_a_bad_setting_is_named(key, value):
    settings = {"classes": CLASSES, "size": SIZE, key: value}
    with pytest.raises(ValueError, match=rf"^views\.{key} is .*; expected [^\n]*$"):
        augment.train_views(make_batch(), jax.random.key(0), **settings)


def test_a_bad_evaluation_crop_is_named():
    with pytest.raises(ValueError, match=r"^views\.crop is 1\.2; expected"):
        augment.eval_views(make_batch(), size=SIZE, crop=1.2)


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="colour_jitter"):
        augment.train_views(
            make_batch(), jax.random.key(0), classes=CLASSES, size=SIZE, colour_jitter=0.4
        )
