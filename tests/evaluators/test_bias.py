"""Measures of bias on encoders whose bias is known: closed forms for convolutions and attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import frozen

from vitjax import models
from vitjax.evaluators import Frozen, equivariance, locality, receptive_field, spectrum
from vitjax.evaluators.features import Inside, Sample
from vitjax.models.features import Features
from vitjax.ops import alterations
from vitjax.ops.locality import uniform_distance

M = 5


def looked(see, images, label=None, attends=(), attention=None, layers=()):
    """A split that is all sample, of an encoder whose patches are see(images) and whose layers have
    the same map."""

    def features(images, layers=()):
        patches = see(images)
        maps = dict.fromkeys(layers, patches)
        return Features(patches.mean((1, 2)), patches, maps, {}, None)

    def encode(images):
        found = features(jnp.asarray(images, jnp.float32))
        return np.asarray(found.pooled), np.asarray(found.patches)

    def measure(function, *arrays):
        inside = Inside(tuple(layers), attends, features, attention)
        found = function(inside, *(jnp.asarray(array, jnp.float32) for array in arrays))
        return jax.tree.map(np.asarray, found)

    pooled, patches = encode(images)
    label = np.zeros(len(images), np.int32) if label is None else np.asarray(label, np.int32)
    rows = np.arange(len(images))
    sample = Sample(np.asarray(images), rows, label, pooled, patches, encode, measure)
    return Frozen(label, pooled, sample=sample)


def noise(side, count=M, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def convolution(images, kernel, stride=1, padding="zero"):
    """[K, K, 3, D], odd K."""
    reach = kernel.shape[0] // 2
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    x = jnp.pad(images, around, mode="wrap" if padding == "wrap" else "constant")
    names = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, "VALID", dimension_numbers=names)
    return jax.nn.relu(y)


def kernel(K=3, D=4, seed=0):
    return np.random.default_rng(seed).normal(size=(K, K, 3, D)).astype(np.float32)


# Equivariance.


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_on_a_torus_is_equivariant_to_shifts_by_its_stride(stride):
    see = partial(convolution, kernel=kernel(), stride=stride, padding="wrap")
    got = equivariance.run(None, looked(see, noise(12)), cells=2, margin=0, padding="wrap")
    assert got["shift_error"] < 1e-6 < 0.3 < got["shift_unmoved"]


def test_zero_padding_fails_on_the_border_ring_alone():
    validation = looked(partial(convolution, kernel=kernel()), noise(12))
    whole = equivariance.run(None, validation, margin=0)
    assert 0.02 < whole["shift_error"] < whole["shift_unmoved"]
    assert equivariance.run(None, validation, margin=1)["shift_error"] < 1e-6


def test_a_shift_error_is_the_formula():
    """Features that forget half of what moves: F(x) = x + its place."""

    def see(images):
        place = jnp.arange(8.0)[None, :, None, None] * 10
        return images + jnp.broadcast_to(place, images.shape)

    validation = looked(see, noise(8))
    got = equivariance.run(None, validation, cells=1, margin=0)
    F = validation.sample.patches.astype(float)
    off = 10.0 * np.sqrt(2 * F[:, 1:].size)  # every cell of two of the four moves is 10 off
    parts = (F[:, :-1], F[:, 1:], F[:, :, :-1], F[:, :, 1:])
    size = np.sqrt(sum((part**2).sum() for part in parts))
    assert got["shift_error"] == pytest.approx(off / size, rel=1e-5)


def test_a_kernel_that_looks_alike_from_every_side_turns_with_the_image():
    turned = kernel()
    turned = sum(np.rot90(turned, k) for k in range(4))
    got = equivariance.run(None, looked(partial(convolution, kernel=turned), noise(12)))
    assert got["rotation_error"] < 1e-6 and got["rotation_cosine"] == pytest.approx(1)
    other = equivariance.run(None, looked(partial(convolution, kernel=kernel()), noise(12)))
    assert other["rotation_error"] > 0.3 and other["rotation_unmoved"] > 0.3


def test_means_of_cells_scale_with_the_image_and_edges_do_not():
    def cells(images):
        return images.reshape(-1, 4, 4, 4, 4, 3).mean((2, 4))

    got = equivariance.run(None, looked(cells, noise(16)), margin=0)
    assert got["scale_error"] < 1e-6 < 0.05 < got["scale_unmoved"]

    def edges(images):
        return jnp.abs(jnp.diff(images, axis=1, append=images[:, :1]))

    got = equivariance.run(None, looked(edges, noise(16)))
    assert got["scale_error"] > 0.2


def test_what_a_grid_is_too_small_for_is_left_out_and_said(monkeypatch):
    said = []
    monkeypatch.setattr(equivariance.logging, "info", said.append)
    validation = looked(lambda images: images.mean((1, 2), keepdims=True), noise(8))
    got = equivariance.run(None, validation)
    assert set(got) == {"rotation_cosine", "scale_cosine"}
    assert said == [
        "evaluators.bias_equivariance: a map of 1x1 cells of 8 pixels is too small, or does not "
        "divide them, for: rotation, shift, scale"
    ]
    assert got["rotation_cosine"] == pytest.approx(1)


# Receptive field.


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_field_of_flat_kernels_is_their_product(depth):
    """Gradients of linear layers are the kernel convolved with itself."""
    flat = np.zeros((3, 3, 3, 3), np.float32)
    flat[:, :, range(3), range(3)] = 1

    def see(images):
        for _ in range(depth):
            images = convolution(images, flat)
        return images

    got = receptive_field.run(None, looked(see, noise(15)), shares=(0.3, 0.5, 0.9))
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, np.ones(3) / 3)
    held = [line[depth - r : depth + r + 1].sum() ** 2 for r in range(depth + 1)]
    for share in (0.3, 0.5, 0.9):
        r = next(r for r in range(depth + 1) if held[r] >= share - 1e-9)
        assert got[f"side_{share:g}"] == (2 * r + 1) / 15


def test_the_field_of_a_patch_is_the_patch():
    mixing = np.random.default_rng(0).normal(size=(4, 4, 3, 7)).astype(np.float32)

    def see(images):
        cut = images.reshape(-1, 3, 4, 3, 4, 3)
        y = jnp.einsum("biujvc,uvcd->bijd", cut, mixing)
        return (y - y.mean(-1, keepdims=True)) / jnp.std(y, -1, keepdims=True)  # LayerNorm

    got = receptive_field.run(None, looked(see, noise(12)), shares=(0.1, 0.95))
    assert got == {"side_0.1": 2 / 12, "side_0.95": 4 / 12}
    # Every pixel of even attention has its share.
    whole = looked(lambda x: jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape), noise(9))
    got = receptive_field.run(None, whole)
    assert got == {"side_0.5": 7 / 9, "side_0.95": 1.0}
    still = looked(lambda images: jnp.ones_like(images), noise(9))
    assert np.isnan(receptive_field.run(None, still)["side_0.5"])


# Attention.


@pytest.fixture(scope="module")
def convit():
    """Sharp heads and closed gates: 9 taps, on 6 x 6 patches of 2 pixels; and a plain block."""
    encoder = models.create(
        "convit", variant="S/2", width=18, depth=2, local=1, mlp=8, locality=30.0, gate=30.0
    )
    variables = jax.jit(lambda key: encoder.init(key, 12))(jax.random.key(0))
    attention = partial(encoder.attention, variables)
    see = jax.jit(lambda images: encoder.apply(variables, images)[0].patches)
    return looked(see, noise(12), attends=encoder.attends, attention=attention)


def test_distances_of_a_convolution_are_those_of_its_taps(convit):
    got = locality.run(None, convit, each="head")
    axis = np.arange(6)
    taps = []
    for dy, dx in np.ndindex(3, 3):  # pushed back at the border
        y, x = (np.clip(axis + d - 1, 0, 5) - axis for d in (dy, dx))
        taps.append(np.hypot(y[:, None], x[None]).mean())
    found = [got[f"nonlocality_block_00_head_{i:02d}"] for i in range(9)]
    np.testing.assert_allclose(found, np.sort(taps), rtol=1e-4, atol=1e-6)
    assert got["distance_block_00"] == pytest.approx(2 * np.mean(taps), rel=1e-4)
    assert got["of_uniform_block_00"] == pytest.approx(np.mean(taps) / uniform_distance(6, 6))
    assert got["convolution_block_00_head_00"] == pytest.approx(1, abs=1e-5)
    # Fresh queries and keys of the plain block ask for next to nothing: nearly even.
    assert got["of_uniform_block_01"] == pytest.approx(1, abs=0.15)
    for key in ("distance", "nonlocality", "of_uniform", "convolution"):
        blocks = [got[f"{key}_block_0{i}"] for i in (0, 1)]
        assert got[key] == pytest.approx(np.mean(blocks))
    assert set(locality.run(None, convit)) == {
        "distance",
        "nonlocality",
        "of_uniform",
        "convolution",
    }
    assert len(locality.run(None, convit, each="layer")) == 4 * 3


def test_an_encoder_without_attention_has_no_numbers_and_says_so(monkeypatch):
    said = []
    monkeypatch.setattr(locality.logging, "info", said.append)
    assert locality.run(None, looked(lambda images: images, noise(8))) == {}
    assert said == ["evaluators.bias_attention: no number of an encoder without attention"]


# Spectrum.


@pytest.mark.parametrize("ring", [0, 3])
def test_noise_of_a_ring_has_its_energy_there_and_nowhere_else(ring):
    draws = [np.random.default_rng(i) for i in range(2)]
    grey = np.full((2, 16, 16, 3), 128, np.uint8)
    got = alterations.ring_noise(grey, 4, ring, 20.0, draws) - 128
    np.testing.assert_allclose(got.std((1, 2)), 20, rtol=1e-4)
    power = (np.abs(np.fft.fft2(got, axes=(1, 2))) ** 2).sum((0, 3))
    waves = np.fft.fftfreq(16, 1 / 8)  # in Nyquists
    radius = np.hypot(waves[:, None], waves[None]) / 4
    inside = (radius > ring / 4) & (radius <= (ring + 1) / 4)
    assert power[~inside].sum() < 1e-6 * power.sum() and inside.sum() > 4
    assert np.abs(got[0] - got[1]).max() > 1


@pytest.mark.parametrize(("wave", "where"), [(1, 0.125), (7, 0.875)])
def test_an_encoder_that_sees_one_frequency_is_hurt_by_noise_of_it(wave, where):
    label = np.arange(24) % 2
    line = np.cos(2 * np.pi * wave * np.arange(16) / 16)
    images = 128 + 6 * np.where(label, -1, 1)[:, None, None, None] * line[None, None, :, None]
    images = np.broadcast_to(np.round(images), (24, 16, 16, 3)).astype(np.uint8)

    def see(images):
        return jnp.einsum("byxc,x->bc", images, line.astype(np.float32))[:, None, None]

    both = looked(see, images, label)
    got = spectrum.run(both, both, strength=0.4)
    assert got["top1"] == 1
    rings = [got[f"top1_ring_{i}"] for i in (1, 2, 3, 4)]
    hurt = int(where * 4)
    assert rings[hurt] < 0.9 and all(top1 == 1 for i, top1 in enumerate(rings) if i != hurt)
    assert got["noise_frequency"] == pytest.approx(where)


def test_log_amplitude_is_numpys_and_a_blur_lowers_it():
    maps = np.random.default_rng(0).normal(size=(M, 6, 6, 4)).astype(np.float32)
    amplitude = np.log(np.abs(np.fft.fft2(maps, axes=(1, 2))) + 1e-6)
    want = (amplitude[:, 3, 3] - amplitude[:, 0, 0]).mean(-1)
    np.testing.assert_allclose(spectrum.log_amplitude(maps), want, atol=1e-4)
    label = np.arange(M) % 2
    plain = looked(lambda images: images[:, ::2, ::2], noise(12), label, layers=("stem",))

    def blurred(images):
        rolled = [jnp.roll(images, (y, x), (1, 2)) for y in (0, 2) for x in (0, 2)]
        return sum(rolled)[:, ::2, ::2] + 1e-3 * images[:, ::2, ::2]

    soft = looked(blurred, noise(12), label)
    high, low = (spectrum.run(each, each, layers=True) for each in (plain, soft))
    assert high["map_high"] > low["map_high"] + 1
    assert high["map_high_stem"] == high["map_high"]


RUNS = {
    "bias_attention": locality.run,
    "bias_equivariance": equivariance.run,
    "bias_field": receptive_field.run,
    "bias_spectrum": spectrum.run,
}


@pytest.mark.parametrize(
    ("name", "key", "given"),
    [
        ("bias_attention", "images", 0),
        ("bias_attention", "each", "block"),
        ("bias_equivariance", "cells", 0),
        ("bias_equivariance", "margin", -1),
        ("bias_equivariance", "padding", "zero"),
        ("bias_field", "images", 0),
        ("bias_field", "draws", 0),
        ("bias_field", "shares", (1.0,)),
        ("bias_field", "seed", -1),
        ("bias_spectrum", "rings", 0),
        ("bias_spectrum", "rings", 5),
        ("bias_spectrum", "strength", 0.0),
        ("bias_spectrum", "readout", "forest"),
        ("bias_spectrum", "seed", -1),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(name, key, given):
    validation = looked(lambda images: images, noise(8), [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match=rf"^evaluators\.{name}\.{key}=[^\n]*expected[^\n]*$"):
        RUNS[name](frozen([[0, 1, 2], [1, 0, 2]], [0, 1]), validation, **{key: given})
