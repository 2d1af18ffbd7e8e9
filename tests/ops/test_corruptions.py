"""The corruptions against their published formulas in float64, SciPy, Pillow and matplotlib."""

import functools
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colors
from PIL import Image
from scipy import ndimage

from vitjax.ops import corruption_fields as fields
from vitjax.ops import jpeg
from vitjax.ops.corruptions import CORRUPTIONS, PARAMETERS, corrupt

SIDES = {"imagenet": 27, "cifar": 32}
SEVERITIES = range(1, 6)
streak = jax.jit(fields.streak, static_argnums=4)
BOTH = pytest.mark.parametrize("scale", ["imagenet", "cifar"])


@functools.cache
def pictures(side):
    """Three images of blobs with some grain, whole numbers 0..255."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(3, side, side, 3)), (0, 2, 2, 0))
    blobs = 110 + 50 * blobs / blobs.std() + 8 * rng.normal(size=blobs.shape)
    return np.clip(np.round(blobs), 0, 255).astype(np.float32)


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), 3)


@functools.cache
def corrupted(name, scale):
    """[5, 3, S, S, 3]: every severity."""
    images = pictures(SIDES[scale])
    return np.stack(
        [
            corrupt(images, keys(), name=name, severity=severity, scale=scale)
            for severity in SEVERITIES
        ]
    )


def agree(got, want, unequal=0.0):
    """Whole numbers 0..255, equal but for a share of them that is off by one."""
    want = np.floor(np.clip(want, 0, 255) + 1e-3)  # np.uint8 of the reference
    assert np.abs(got - want).max() <= 1
    assert np.mean(got != want) <= unequal


@BOTH
def test_brightness_adds_to_the_value_of_hsv(scale):
    images = pictures(SIDES[scale]) / 255.0
    for amount, got in zip(
        PARAMETERS[scale]["brightness"], corrupted("brightness", scale), strict=True
    ):
        hsv = colors.rgb_to_hsv(images.astype(float))
        hsv[..., 2] = np.clip(hsv[..., 2] + amount, 0, 1)
        agree(got, 255 * colors.hsv_to_rgb(hsv), unequal=1e-3)


def test_brightness_of_black_is_grey():
    black = np.zeros((3, 27, 27, 3), np.float32)
    got = corrupt(black, keys(), name="brightness", severity=2, scale="imagenet")
    np.testing.assert_array_equal(got, np.full_like(black, 51))


@BOTH
def test_contrast_shrinks_about_the_mean_of_each_channel(scale):
    images = pictures(SIDES[scale]).astype(float)
    mean = images.mean(axis=(1, 2), keepdims=True)
    for share, got in zip(PARAMETERS[scale]["contrast"], corrupted("contrast", scale), strict=True):
        agree(got, mean + share * (images - mean), unequal=1e-3)


@BOTH
def test_pixelate_is_pillow_s_box_filter(scale):
    side = SIDES[scale]
    for share, got in zip(PARAMETERS[scale]["pixelate"], corrupted("pixelate", scale), strict=True):
        for image, result in zip(pictures(side), got, strict=True):
            small = Image.fromarray(image.astype(np.uint8)).resize(
                (int(side * share),) * 2, Image.Resampling.BOX
            )
            want = np.asarray(small.resize((side, side), Image.Resampling.BOX))
            agree(result, want, unequal=1e-3)


def disk_as_published(radius, alias):
    reach, far = (8, 1) if radius <= 8 else (radius, 2)
    kernel = np.array(
        [
            [float(x * x + y * y <= radius * radius) for x in range(-reach, reach + 1)]
            for y in range(-reach, reach + 1)
        ]
    )
    kernel /= kernel.sum()
    bell = np.exp(-(np.arange(-far, far + 1) ** 2) / (2 * alias**2))
    bell = np.outer(bell, bell) / bell.sum() ** 2
    return ndimage.convolve(kernel, bell, mode="mirror")


@BOTH
def test_defocus_is_a_convolution_with_a_soft_disk(scale):
    images = pictures(SIDES[scale]).astype(float)
    for row, got in zip(
        PARAMETERS[scale]["defocus_blur"], corrupted("defocus_blur", scale), strict=True
    ):
        kernel = disk_as_published(*row)[None, :, :, None]
        agree(got, ndimage.convolve(images, kernel, mode="mirror"), unequal=1e-3)


def clipped_zoom(image, factor):
    side = len(image)
    crop = math.ceil(side / factor)
    top = (side - crop) // 2
    large = ndimage.zoom(image[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


@BOTH
def test_zoom_blur_is_the_mean_of_zooms(scale):
    for (stop, step), got in zip(
        PARAMETERS[scale]["zoom_blur"], corrupted("zoom_blur", scale), strict=True
    ):
        factors = np.arange(1, stop, step)
        for image, result in zip(pictures(SIDES[scale]).astype(float), got, strict=True):
            total = image + sum(clipped_zoom(image, factor) for factor in factors)
            agree(result, total / (len(factors) + 1), unequal=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1.25, 2.25, 3.0, 4.5])
def test_zoom_is_scipy_s_for_the_flakes_of_snow_too(factor):
    noise = np.random.default_rng(1).normal(size=(29, 29, 2))
    got = fields.zoomed(jnp.asarray(noise, jnp.float32), *fields.zoom_taps(29, factor))
    np.testing.assert_allclose(got, clipped_zoom(noise, factor), atol=1e-5)


@BOTH
def test_jpeg_is_that_of_libjpeg(scale):
    for quality, got in zip(
        PARAMETERS[scale]["jpeg_compression"], corrupted("jpeg_compression", scale), strict=True
    ):
        for image, result in zip(pictures(SIDES[scale]), got, strict=True):
            file = io.BytesIO()
            Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=quality)
            np.testing.assert_array_equal(result, np.asarray(Image.open(file)))


def test_jpeg_tables_are_those_that_pillow_writes():
    for quality in (1, 7, 25, 49, 50, 80, 100):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        for want, standard in zip(
            Image.open(file).quantization.values(), (jpeg.LUMA, jpeg.CHROMA), strict=True
        ):
            got = jpeg.table(standard, quality)
            np.testing.assert_array_equal(np.asarray(got).reshape(-1), want)


def flat(level, side=27):
    return np.full((3, side, side, 3), level, np.float32)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 255 * 0.08), (2, 255 * 0.12)])
def test_gaussian_noise_has_the_published_deviation(severity, deviation):
    got = corrupt(flat(128), keys(), name="gaussian_noise", severity=severity, scale="imagenet")
    assert np.std(got) == pytest.approx(deviation, rel=0.03)  # its error is 0.9%
    assert np.mean(got) == pytest.approx(127.5, abs=4 * deviation / math.sqrt(got.size))


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (3, 12)])
def test_shot_noise_counts_photons(severity, photons):
    got = corrupt(flat(102), keys(), name="shot_noise", severity=severity, scale="imagenet")
    counts = np.asarray(got) / 255 * photons
    np.testing.assert_allclose(counts, np.ceil(counts - 1e-2), atol=photons / 255)
    deviation = math.sqrt(0.4 / photons) * 255  # of a Poisson number over photons
    assert np.std(got) == pytest.approx(deviation, rel=0.03)
    assert np.mean(got) == pytest.approx(101.6, abs=0.5 + 4 * deviation / math.sqrt(got.size))


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_makes_a_share_black_and_white(severity, share):
    got = corrupt(flat(77), keys(), name="impulse_noise", severity=severity, scale="imagenet")
    error = 4 * math.sqrt(share / got.size)
    assert np.mean(got != 77) == pytest.approx(share, abs=error)
    for value in (0, 255):
        assert np.mean(got == value) == pytest.approx(share / 2, abs=error)


def copies_as_published(pixels, key, reach, rounds):
    """The loop of the reference, whose swap of two views copies the second onto the first."""
    pixels, side = pixels.copy(), len(pixels)
    for turn in range(rounds):
        draws = jax.random.randint(
            jax.random.fold_in(key, turn), (2, side * side), -reach, reach, jnp.int32
        )
        down, right = np.asarray(draws).reshape(2, side, side)
        for y in range(side - reach, reach, -1):
            for x in range(side - reach, reach, -1):
                there = y + down[y, x], x + right[y, x]
                pixels[y, x], pixels[there] = pixels[there], pixels[y, x]
    return pixels


@BOTH
def test_glass_is_the_published_loop_between_two_blurs(scale):
    for (sigma, reach, rounds), got in zip(
        PARAMETERS[scale]["glass_blur"], corrupted("glass_blur", scale), strict=True
    ):
        blur = functools.partial(
            ndimage.gaussian_filter, sigma=(sigma, sigma, 0), mode="nearest", truncate=4.0
        )
        for image, key, result in zip(pictures(SIDES[scale]), keys(), got, strict=True):
            blurred = np.floor(blur(image.astype(float)) + 1e-3)
            want = blur(copies_as_published(blurred, key, reach, rounds))
            # A blur of 0.25 pixels leaves many values a thousandth beside a whole number.
            agree(result, want, unequal=0.03)


def test_glass_copies_from_no_further_than_its_rounds_reach():
    side, reach, rounds = 15, 2, 3
    places = np.stack(np.mgrid[:side, :side], axis=2).astype(np.float32)
    got = fields.local_copies(jnp.asarray(places), jax.random.key(1), reach, rounds)
    moved = np.abs(np.asarray(got) - places).max(axis=2)
    assert (moved[: reach + 1] == 0).all() and (moved[:, side - reach + 1 :] == 0).all()
    inner = moved[reach + 1 : side - reach + 1, reach + 1 : side - reach + 1]
    assert np.mean(inner > 0) > 0.7
    once = fields.local_copies(jnp.asarray(places), jax.random.key(1), reach, 1)
    np.testing.assert_array_equal(once, copies_as_published(places, jax.random.key(1), reach, 1))


@pytest.mark.parametrize("angle", [-135.0, -90.0, -31.0, 0.0, 45.0])
def test_a_streak_is_half_a_gaussian_along_a_line(angle):
    radius, sigma = 3, 2.5
    image = np.random.default_rng(2).uniform(size=(13, 13, 2))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    kernel = np.zeros((13, 13))
    for tap, weight in enumerate(weights):
        y = math.ceil(tap * math.sin(math.radians(angle)) - 0.5)
        x = math.ceil(tap * math.cos(math.radians(angle)) - 0.5)
        kernel[6 + y, 6 + x] += weight
    want = ndimage.correlate(image, kernel[:, :, None], mode="nearest")
    got = streak(image.astype(np.float32), angle, float(radius), sigma, 11)
    np.testing.assert_allclose(got, want, atol=1e-6)


@BOTH
def test_motion_blur_is_a_streak_at_most_45_degrees_from_the_horizontal(scale):
    angles = [float(jax.random.uniform(key, minval=-45.0, maxval=45.0)) for key in keys()]
    for (radius, sigma), got in zip(
        PARAMETERS[scale]["motion_blur"], corrupted("motion_blur", scale), strict=True
    ):
        for image, angle, result in zip(pictures(SIDES[scale]), angles, got, strict=True):
            want = streak(image, angle, float(radius), sigma, 41)
            agree(result, np.round(want), unequal=1e-3)


def plasma_as_published(key, side, decay):
    """Diamond-square in strides over one array; the draws of a level in the order of its steps."""
    size = 2 ** math.ceil(math.log2(side))
    unit = np.asarray(jax.random.uniform(key, (size * size - 1,), minval=-1.0), float)
    heights, step, wibble, level = np.zeros((size, size)), size, 100.0, 0
    while step >= 2:
        half = step // 2
        draws = wibble * wibble * unit[4**level - 1 :][: 3 * 4**level].reshape(3, 2**level, -1)
        old = heights[::step, ::step]
        rows = old + np.roll(old, -1, axis=0)
        heights[half::step, half::step] = (rows + np.roll(rows, -1, axis=1)) / 4 + draws[0]
        new = heights[half::step, half::step]
        total = new + np.roll(new, 1, axis=0) + old + np.roll(old, -1, axis=1)
        heights[::step, half::step] = total / 4 + draws[1]
        total = new + np.roll(new, 1, axis=1) + old + np.roll(old, -1, axis=0)
        heights[half::step, ::step] = total / 4 + draws[2]
        step, wibble, level = half, wibble / decay, level + 1
    heights -= heights.min()
    return (heights / heights.max())[:side, :side]


def test_fog_is_light_of_the_diamond_square_fractal():
    for (amount, decay), got in zip(
        PARAMETERS["imagenet"]["fog"], corrupted("fog", "imagenet"), strict=True
    ):
        for image, key, result in zip(pictures(27) / 255.0, keys(), got, strict=True):
            haze = amount * plasma_as_published(key, 27, decay)[:, :, None]
            agree(result, 255 * (image + haze) * image.max() / (image.max() + amount), 0.01)


def test_snow_is_the_published_sum():
    rows = PARAMETERS["imagenet"]["snow"]
    for (mean, std, zoom, threshold, radius, sigma, kept), got in zip(
        rows, corrupted("snow", "imagenet"), strict=True
    ):
        for image, key, result in zip(pictures(27) / 255.0, keys(), got, strict=True):
            noise_key, angle_key = jax.random.split(key)
            flakes = mean + std * np.asarray(jax.random.normal(noise_key, (27, 27, 1)), float)
            flakes = clipped_zoom(flakes, zoom)
            flakes[flakes < threshold] = 0
            flakes = np.floor(255 * np.clip(flakes, 0, 1))
            angle = float(jax.random.uniform(angle_key, minval=-135.0, maxval=-45.0))
            flakes = streak(flakes.astype(np.float32), angle, float(radius), float(sigma), 25)
            flakes = np.round(flakes) / 255.0
            grey = image.astype(float) @ np.array([0.299, 0.587, 0.114])
            white = np.maximum(image, 1.5 * grey[..., None] + 0.5)
            want = kept * image + (1 - kept) * white + flakes + flakes[::-1, ::-1]
            agree(result, 255 * want, unequal=0.02)


def test_frost_is_a_weighted_sum_with_a_bluish_texture():
    kept, ice = np.array(PARAMETERS["imagenet"]["frost"]).T[:, :, None, None, None, None]
    texture = np.asarray(jax.jit(jax.vmap(lambda key: fields.frost_texture(key, 27)))(keys()))
    assert texture.min() > 0.2 and texture.max() <= 1 and texture.std() > 0.1
    assert (texture[..., 2] >= texture[..., 0]).all()
    agree(corrupted("frost", "imagenet"), kept * pictures(27) + 255 * ice * texture, unequal=0.01)


@BOTH
def test_elastic_transform_is_the_published_map(scale):
    side = SIDES[scale]
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    for row, got in zip(
        PARAMETERS[scale]["elastic_transform"], corrupted("elastic_transform", scale), strict=True
    ):
        force, sigma, reach = np.array(row) * side
        for image, key, result in zip(pictures(side).astype(float), keys(), got, strict=True):
            points_key, field_key = jax.random.split(key)
            centre, arm = side // 2, side // 3
            corners = centre + np.array([[arm, arm], [arm, -arm], [-arm, -arm]], float)
            draw = np.asarray(jax.random.uniform(points_key, (3, 2), minval=-1.0), float)
            moved = np.c_[corners + reach * draw, np.ones(3)]
            back = np.stack((x, y, np.ones_like(x)), axis=2) @ np.linalg.solve(moved, corners)
            noise = jax.random.uniform(field_key, (side, side, 2), minval=-1.0)
            push = force * ndimage.gaussian_filter(
                np.asarray(noise, float), (sigma, sigma, 0), mode="reflect", truncate=3.0
            )
            want = np.empty_like(image)
            for channel in range(3):
                plane = image[..., channel]
                plane = ndimage.map_coordinates(
                    plane, (back[..., 1], back[..., 0]), order=1, mode="mirror"
                )
                places = (y + push[..., 1], x + push[..., 0])
                want[..., channel] = ndimage.map_coordinates(plane, places, order=1, mode="reflect")
            agree(result, want, unequal=0.01)


# The published parameters of these do not grow from one severity to the next.
UNEVEN = {"glass_blur", "frost", "elastic_transform", "motion_blur"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_results_are_whole_numbers_further_from_the_image_with_severity(name):
    got = corrupted(name, "imagenet")
    assert got.dtype == np.float32 and (got == np.round(got)).all()
    assert got.min() >= 0 and got.max() <= 255
    distance = np.abs(got - pictures(27)).mean(axis=(1, 2, 3, 4))
    if name in UNEVEN:
        assert distance.min() > 5
    else:
        assert (np.diff(distance) > 0).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_and_its_key_are_all_that_counts(name):
    order = np.array([2, 0, 1])
    got = corrupt(pictures(27)[order], keys()[order], name=name, severity=4, scale="imagenet")
    np.testing.assert_array_equal(got, corrupted(name, "imagenet")[3][order])


@pytest.mark.parametrize("name", ["impulse_noise", "glass_blur", "zoom_blur", "pixelate"])
def test_a_severity_known_while_compiling_gives_the_same(name):
    static = jax.jit(
        lambda images, keys: corrupt.__wrapped__(
            images, keys, name=name, severity=3, scale="imagenet"
        )
    )
    got = np.asarray(static(pictures(27), keys()))
    np.testing.assert_array_equal(got, corrupted(name, "imagenet")[2])


def test_one_program_serves_five_severities():
    corrupted("contrast", "imagenet")
    programs = corrupt._cache_size()
    for severity in SEVERITIES:
        corrupt(pictures(27), keys(), name="contrast", severity=severity, scale="imagenet")
    assert corrupt._cache_size() == programs


@pytest.mark.parametrize("scale", ["imagenet", "cifar"])
def test_tables_hold_five_severities_of_fifteen(scale):
    assert list(PARAMETERS[scale]) == list(CORRUPTIONS) and len(CORRUPTIONS) == 15
    assert all(len(rows) == 5 for rows in PARAMETERS[scale].values())
