"""Multi-crop views: where each crop comes from, how often each colour operation strikes, and what
their draws depend on. The operations themselves are compared with Pillow and torchvision's rules in
test_crop, test_colour and test_blur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vitjax.ops import augment, crop
from vitjax.ops.multicrop import BLURS, multicrop

B, S = 6, 20
PLAIN = {"jitter": 0.0, "grey": 0.0, "blur": (0.0,) * 3, "solarize": (0.0,) * 3}
UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
KEY = jax.random.key(3)


def batch_of(rows=B, seed=0, image=None):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, S, S, 3), np.uint8) if image is None else image
    return {
        "image": jnp.asarray(images),
        "size": jnp.full((rows, 2), S, jnp.int32),
        "label": jnp.zeros(rows, jnp.int32),
        "index": jnp.arange(rows, dtype=jnp.uint32) + 10,
        "epoch": jnp.zeros(rows, jnp.uint32),
    }


def views(batch, **settings):
    settings = {"size": 9, "local_size": 5, "local_crops": 3} | UNIT | settings
    return jax.jit(lambda batch: multicrop(batch, KEY, **settings))(batch)


def test_a_crop_is_pillows_resized_box_and_nothing_else():
    batch = batch_of()
    out = views(batch, flip=False, **PLAIN)
    assert out["global"].shape == (B, 2, 9, 9, 3) and out["local"].shape == (B, 3, 5, 5, 3)
    keys = augment.example_keys(batch, KEY)
    for row in range(2):
        for number, view in enumerate([*out["global"][row], *out["local"][row]]):
            area = (0.32, 1.0) if number < 2 else (0.05, 0.32)
            key = jax.random.fold_in(jax.random.fold_in(keys[row], number), augment.CROP)
            top, left, h, w = map(int, crop.sample_box(key, batch["size"][row], area))
            picture = Image.fromarray(np.asarray(batch["image"][row]))
            picture = picture.crop((left, top, left + w, top + h))
            want = picture.resize(view.shape[:2], Image.Resampling.BICUBIC)
            np.testing.assert_allclose(255 * view, np.asarray(want), atol=1.01)


def test_a_view_depends_on_its_example_and_epoch_alone():
    batch = batch_of()
    whole = views(batch)
    backwards = views(jax.tree.map(lambda x: x[::-1], batch))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[::-1], atol=1e-6), whole, backwards)
    later = views(batch | {"epoch": batch["epoch"] + 1})
    assert np.all(np.abs(later["global"] - whole["global"]).max(axis=(1, 2, 3, 4)) > 0.05)
    assert np.abs(whole["global"][:, 0] - whole["global"][:, 1]).max() > 0.05


@pytest.mark.slow
def test_the_number_of_local_crops_changes_no_crop():
    batch = batch_of()
    three, one = views(batch), views(batch, local_crops=1)
    np.testing.assert_allclose(three["global"], one["global"], atol=1e-6)
    np.testing.assert_allclose(three["local"][:, :1], one["local"], atol=1e-6)
    assert "local" not in views(batch, local_crops=0)


@pytest.mark.parametrize(
    ("name", "want"), [("paper", (1.0, 0.1, 0.5)), ("dinov2_released", (0.0, 0.9, 0.5))]
)
def test_blur_strikes_as_often_as_the_preset_says(name, want):
    """One bright pixel column: what is blurred has more grey levels."""
    assert BLURS[name] == want
    rows = 300
    stripes = np.zeros((rows, S, S, 3), np.uint8)
    stripes[:, :, ::2] = 255
    plain = PLAIN | {"blur": name}
    whole = {"global_area": (1.0, 1.0), "local_area": (1.0, 1.0), "ratio": (1.0, 1.0)}
    out = views(batch_of(rows, image=stripes), size=S, local_size=S, **whole, **plain)
    crops = np.concatenate([out["global"], out["local"][:, :1]], axis=1)
    # The smallest sigmas leave a pixel as it is: as many as reach a thousandth are counted.
    blurred = (np.abs(crops - np.round(crops)).max(axis=(2, 3, 4)) > 1e-3).mean(axis=0)
    seen = 1 - (0.27 - 0.1) / 1.9  # share of sigmas above 0.27, where exp(-1 / 2 sigma^2) > 1e-3
    np.testing.assert_allclose(blurred, seen * np.asarray(want), atol=0.09)


def test_grey_and_solarize_strike_as_often_as_said_and_where():
    rows = 300
    settings = PLAIN | {"grey": 0.2, "solarize": (0.0, 0.4, 0.0)}
    flat = np.broadcast_to(np.asarray([250, 200, 140], np.uint8), (rows, S, S, 3))
    out = views(batch_of(rows, image=flat), **settings)
    pixels = [out["global"][:, :, 2, 2], out["local"][:, :1, 2, 2]]
    first = 255 * np.concatenate(pixels, axis=1)  # [rows, crops, 3]
    grey = np.ptp(first, axis=-1) < 1
    np.testing.assert_allclose(grey.mean(axis=0), 0.2, atol=0.08)
    solarized = first[..., 0] < 60
    np.testing.assert_allclose(solarized.mean(axis=0), [0.0, 0.4, 0.0], atol=0.09)


@pytest.mark.slow
def test_gram_crops_are_the_global_boxes_larger_and_as_they_are():
    batch = batch_of()
    plain = views(batch, gram_size=18, **PLAIN)
    want = views(batch, size=18, **PLAIN)["global"]
    np.testing.assert_allclose(plain["gram"], want, atol=1e-5)
    coloured = views(batch, gram_size=18)
    np.testing.assert_allclose(coloured["gram"], want, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("blur", {"blur": "papr"}),
        ("blur", {"blur": (0.1, 0.2)}),
        ("solarize", {"solarize": (0.0, 1.2, 0.0)}),
        ("local_crops", {"local_crops": -1}),
        ("local_area", {"local_area": (0.5, 0.1)}),
        ("blur_taps", {"blur_taps": 4}),
        ("gram_size", {"gram_size": 0}),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, settings):
    with pytest.raises(ValueError, match=rf"^views\.{key}[^\n]*(expected|valid)[^\n]*$"):
        multicrop(batch_of(), KEY, size=9, **settings)
