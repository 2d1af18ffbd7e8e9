"""Crops against Pillow, and boxes against the published sampling of RandomResizedCrop."""

import functools
import io
import math
import os
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from vitjax.ops.crop import (
    center_crop,
    center_crop_maps,
    center_crop_points,
    crop_resize,
    sample_box,
)

PILLOW = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}


def scene(height, width, seed=0):
    """Smooth noise with one hard edge, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (2, 2, 0))
    image = 128 + 60 * noise / noise.std()
    image[: height // 3, : width // 2] *= 0.4
    return np.clip(image, 0, 255).astype(np.uint8)


def canvas_of(images, side, fill=0):
    canvas = np.full((len(images), side, side, 3), fill, np.uint8)
    for row, image in zip(canvas, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return canvas


@pytest.mark.parametrize(("method", "levels"), [("linear", 1.0), ("cubic", 2.0)])
def test_crop_equals_pillow_crop_then_resize(method, levels):
    image = scene(61, 83)
    boxes = np.array([[0, 0, 61, 83], [7, 40, 50, 31], [20, 3, 9, 80], [56, 78, 5, 5]], np.int32)
    flips = np.array([False, True, True, False])
    canvas = canvas_of([image], 96, fill=255)[0]

    run = jax.jit(jax.vmap(lambda box, flip: crop_resize(canvas, *box, flip, 24, method)))
    got = run(boxes, flips)
    for view, (top, left, h, w), flip in zip(got, boxes, flips, strict=True):
        want = Image.fromarray(image[top : top + h, left : left + w])
        want = np.asarray(want.resize((24, 24), PILLOW[method]), np.float32)
        want = want[:, ::-1] if flip else want
        assert np.abs(view - want).max() <= levels
        assert np.abs(view - want).mean() < 0.5


def test_without_antialias_linear_reads_two_pixels():
    image = scene(64, 64)
    got = jax.jit(lambda x: crop_resize(x, 0, 0, 64, 64, False, 8, antialias=False))(image)
    want = image[3::8].astype(np.float32) / 2 + image[4::8].astype(np.float32) / 2
    want = (want[:, 3::8] + want[:, 4::8]) / 2
    np.testing.assert_allclose(got, want, atol=1e-3)


def pillow_center_crop(image, size, crop, method):
    """torchvision's Resize(round(size / crop)) and CenterCrop(size), by their definition."""
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    resize = round(size / crop)
    other = int(resize * long / short)
    h, w = (resize, other) if height <= width else (other, resize)
    image = Image.fromarray(image).resize((w, h), PILLOW[method])
    top, left = round((h - size) / 2), round((w - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)


@functools.cache
def jitted_center_crop(size, crop, method):
    return jax.jit(lambda batch: center_crop(batch, size, crop, method))


@pytest.mark.parametrize(
    ("size", "crop", "method", "levels"),
    [(28, 0.875, "cubic", 2.0), (28, 0.9, "linear", 1.5), (33, 1.0, "cubic", 2.0)],
)
def test_center_crop_equals_pillow(size, crop, method, levels):
    shapes = [(61, 97), (97, 40), (64, 64), (21, 23), (97, 96), (35, 51), (90, 43), (43, 90)]
    images = [scene(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    batch = {"image": canvas_of(images, 97, fill=255), "size": np.array(shapes, np.int32)}
    got = jitted_center_crop(size, crop, method)(batch)
    for view, image in zip(got, images, strict=True):
        difference = np.abs(view - pillow_center_crop(image, size, crop, method))
        assert difference.max() <= levels, image.shape
        assert difference.mean() < 0.6


def test_center_crop_equals_pillow_on_photos():
    if "VITJAX_TEST_DATA" not in os.environ:
        pytest.skip("VITJAX_TEST_DATA is not set: the folder that holds photos.tar")
    images = []
    with tarfile.open(os.path.join(os.environ["VITJAX_TEST_DATA"], "photos.tar")) as tar:
        for member in tar:
            if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg")):
                photo = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                photo.thumbnail((400, 400))
                images.append(np.asarray(photo))
            if len(images) == 6:
                break
    batch = {
        "image": canvas_of(images, 400),
        "size": np.array([image.shape[:2] for image in images], np.int32),
    }
    got = jitted_center_crop(224, 0.875, "cubic")(batch)
    for view, image in zip(got, images, strict=True):
        difference = np.abs(view - pillow_center_crop(image, 224, 0.875, "cubic"))
        assert difference.max() <= 2.0
        assert difference.mean() < 0.5


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_center_crop_of_the_same_size_is_the_identity(method):
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    batch = {"image": np.pad(image, ((0, 0), (0, 5), (0, 5), (0, 0)), constant_values=9)}
    batch["size"] = np.full((2, 2), 32, np.int32)
    np.testing.assert_array_equal(jitted_center_crop(32, 1.0, method)(batch), image)


def test_the_rest_of_the_canvas_never_leaks():
    images = [scene(31, 47), scene(40, 22)]
    size = np.array([image.shape[:2] for image in images], np.int32)
    run = jitted_center_crop(28, 0.9, "linear")
    black = run({"image": canvas_of(images, 50, fill=0), "size": size})
    white = run({"image": canvas_of(images, 50, fill=255), "size": size})
    np.testing.assert_array_equal(black, white)


def test_a_padding_row_of_size_zero_is_black():
    batch = {"image": np.full((2, 50, 50, 3), 9, np.uint8), "size": np.zeros((2, 2), np.int32)}
    np.testing.assert_array_equal(jitted_center_crop(28, 0.9, "linear")(batch), 0.0)


def published_box(rng, height, width, area, ratio):
    """RandomResizedCrop.get_params as torchvision defines it."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        h, w = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        h, w = height, round(height * ratio[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


@functools.cache
def drawn_boxes(height, width, area, ratio, draws=6000):
    keys = jax.random.split(jax.random.key(3), draws)
    size = jnp.array([height, width], jnp.int32)
    box = jax.jit(jax.vmap(lambda key: jnp.stack(sample_box(key, size, area, ratio))))
    return np.asarray(box(keys))


@pytest.mark.parametrize(
    ("height", "width", "area"), [(375, 500, (0.08, 1.0)), (97, 211, (0.3, 0.9))]
)
def test_boxes_are_distributed_as_published(height, width, area):
    ratio = (3 / 4, 4 / 3)
    got = drawn_boxes(height, width, area, ratio)
    rng = np.random.default_rng(5)
    want = np.array([published_box(rng, height, width, area, ratio) for _ in range(len(got))])
    for boxes in (got, want):
        assert (boxes >= [0, 0, 1, 1]).all()
        assert (boxes[:, 0] + boxes[:, 2] <= height).all()
        assert (boxes[:, 1] + boxes[:, 3] <= width).all()

    def statistics(boxes):
        top, left, h, w = boxes.T.astype(np.float64)
        return {
            "area": h * w / (height * width),
            "ratio": np.log(w / h),
            "row": top / np.maximum(height - h, 1),
            "column": left / np.maximum(width - w, 1),
        }

    ours, theirs = statistics(got), statistics(want)
    for name in ours:
        assert stats.ks_2samp(ours[name], theirs[name]).pvalue > 1e-3, name
        assert abs(ours[name].mean() - theirs[name].mean()) < 0.02, name
        assert abs(ours[name].std() - theirs[name].std()) < 0.02, name


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(40, 161, (0, 54, 40, 53)), (161, 40, (54, 0, 53, 40)), (40, 42, (0, 0, 40, 42))],
)
def test_a_box_that_never_fits_falls_back_to_the_centre(height, width, box):
    ratio = (3 / 4, 4 / 3)
    area = (0.999, 1.0) if height == 40 and width == 42 else (0.9, 1.0)
    got = drawn_boxes(height, width, area, ratio, draws=400)
    fallbacks = (got == np.array(box)[None]).all(axis=1).mean()
    rng = np.random.default_rng(0)
    want = [published_box(rng, height, width, area, ratio) == box for _ in range(400)]
    assert abs(fallbacks - np.mean(want)) < 0.1 and fallbacks > 0.5


def test_maps_and_points_follow_the_image_through_the_evaluation_crop():
    """A bright square, its mask and its centre stay together, whatever the shape of the image."""
    S, size, crop_share = 40, 16, 0.8
    rng = np.random.default_rng(0)
    images = np.zeros((3, S, S, 3), np.uint8)
    masks, points = np.zeros((3, S, S), np.uint8), np.zeros((3, 2, 3), np.float32)
    sizes = np.array([[40, 28], [22, 36], [31, 31]], np.int32)
    for i, (height, width) in enumerate(sizes):
        y, x = rng.integers(height // 3, height // 2), rng.integers(width // 3, width // 2)
        images[i, y : y + 8, x : x + 8], masks[i, y : y + 8, x : x + 8] = 255, 7
        points[i] = [[y + 4, x + 4, 1], [0.5, 0.5, 1]]
    batch = {"image": images, "size": sizes}
    seen = np.asarray(center_crop(batch, size, crop_share, "linear"))[..., 0]
    mask = np.asarray(center_crop_maps(masks, sizes, size, crop_share))
    assert set(np.unique(mask)) == {0, 7}
    assert ((mask == 7) == (seen > 127)).mean() > 0.97  # but for pixels at the edge
    moved = np.asarray(center_crop_points(points, sizes, size, crop_share))
    for i in range(3):
        y, x = (np.nonzero(mask[i])[dim].mean() + 0.5 for dim in (0, 1))
        np.testing.assert_allclose(moved[i, 0], [y, x, 1], atol=0.6)
    np.testing.assert_array_equal(moved[:, 1, 2], 0)  # the corner is cut off


def test_a_map_of_the_right_size_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    maps, sizes = rng.integers(0, 9, (2, 16, 16), np.uint8), np.full((2, 2), 16, np.int32)
    np.testing.assert_array_equal(center_crop_maps(maps, sizes, 16, 1.0), maps)
