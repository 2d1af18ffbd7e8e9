import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vitjax.data import decode as decode_module
from vitjax.data.decode import UnreadableImage, decode

HEIGHT, WIDTH, CANVAS = 37, 52, 64


def picture(channels, height=HEIGHT, width=WIDTH):
    """Smooth colours, as photographs have, with some noise."""
    y, x = np.mgrid[:height, :width][..., None]
    phase = np.arange(channels)
    wave = 120 + 90 * np.sin(x / 9 + phase) * np.cos(y / 7 - phase)
    noise = np.random.RandomState(0).uniform(-20, 20, (height, width, channels))
    return np.clip(wave + noise, 0, 255).astype(np.uint8)


def encoded(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


RGB = Image.fromarray(picture(3))
GREY = Image.fromarray(picture(1)[:, :, 0])
CMYK = Image.fromarray(picture(4), mode="CMYK")
FILES = {
    "jpeg 4:2:0": encoded(RGB, "JPEG", quality=85),
    "jpeg 4:4:4": encoded(RGB, "JPEG", quality=90, subsampling=0),
    "progressive jpeg": encoded(RGB, "JPEG", progressive=True),
    "grey jpeg": encoded(GREY, "JPEG"),
    "CMYK jpeg": encoded(CMYK, "JPEG"),
    "png": encoded(RGB, "PNG"),
    "grey png": encoded(GREY, "PNG"),
    "palette png": encoded(RGB.quantize(17), "PNG"),
    "RGBA png": encoded(Image.fromarray(picture(4)), "PNG"),
    "webp": encoded(RGB, "WEBP", lossless=True),
    "gif": encoded(RGB, "GIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow_in_the_top_left_corner(name):
    image, size = decode(FILES[name], CANVAS)
    assert image.shape == (CANVAS, CANVAS, 3)
    assert image.dtype == np.uint8
    assert size.dtype == np.int32
    assert size.tolist() == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(image[:HEIGHT, :WIDTH], by_pillow(FILES[name]))
    assert not image[HEIGHT:].any()
    assert not image[:, WIDTH:].any()


@pytest.mark.parametrize("height, width", [(150, 90), (61, 203), (400, 3)])
def test_a_larger_image_is_shrunk_to_the_canvas_with_its_aspect(height, width):
    original = Image.fromarray(picture(3, height, width))
    image, (h, w) = decode(encoded(original, "PNG"), CANVAS)
    assert max(h, w) == CANVAS
    assert abs(h / w - height / width) < 0.02 * height / width or min(h, w) == 1
    want = original.resize((int(w), int(h)), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image[:h, :w], np.asarray(want))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_arrays_keep_their_pixels(shape):
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    image, size = decode(pixels, 9)
    assert size.tolist() == [5, 7]
    np.testing.assert_array_equal(
        image[:5, :7], np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
    )
    shrunk, size = decode(pixels, 4)
    assert size.tolist() == [3, 4]
    assert shrunk.any()


def test_sixteen_bit_greys_keep_their_range():
    pixels = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
    image, _ = decode(encoded(Image.fromarray(pixels), "PNG"), 7)
    np.testing.assert_array_equal(image[:5, :, 0], pixels >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_greys_without_a_scale_are_unreadable(mode):
    with pytest.raises(UnreadableImage, match="32-bit greys"):
        decode(encoded(GREY.convert(mode), "TIFF"), CANVAS)


def test_no_format_that_is_a_program_is_opened():
    postscript = encoded(RGB, "EPS")
    with pytest.raises(UnreadableImage, match="cannot identify"):
        decode(postscript, CANVAS)


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    _, size = decode(encoded(RGB, "JPEG", exif=exif), CANVAS)
    assert size.tolist() == [HEIGHT, WIDTH]


@pytest.mark.parametrize("name", ["jpeg 4:2:0", "CMYK jpeg", "png", "webp", "gif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_truncated_files_are_unreadable(name, share):
    data = FILES[name]
    with pytest.raises(UnreadableImage, match=r"^[^\n]+$"):
        decode(data[: int(share * len(data))], CANVAS)


@pytest.mark.parametrize("data", [b"no image at all", b"\xff\xd8\xff\xe0 nor this", bytes(999)])
def test_garbage_is_unreadable(data):
    with pytest.raises(UnreadableImage, match=r"^[^\n]+$"):
        decode(data, CANVAS)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_unreadable(pixels):
    with pytest.raises(UnreadableImage):
        decode(pixels, CANVAS)


@pytest.mark.parametrize("name", ["jpeg 4:2:0", "png"])
def test_decompression_bombs_are_unreadable(name, monkeypatch):
    monkeypatch.setattr(decode_module, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(UnreadableImage, match="pixels"):
        decode(FILES[name], CANVAS)


def photo(height, width):
    """A smooth JPEG, as photographs are: shrinking loses little of it."""
    y, x = np.mgrid[:height, :width][..., None]
    wave = 120 + 90 * np.sin(x / 19 + np.arange(3)) * np.cos(y / 17)
    return encoded(Image.fromarray(wave.astype(np.uint8)), "JPEG", quality=95)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 211, (64, 45)), (64, 133, (31, 64)), (40, 50, (40, 50))]
)
def test_scaled_decoding_gives_nearly_what_whole_decoding_gives(height, width, size):
    data = photo(height, width)
    exact, _ = decode(data, CANVAS)
    scaled, scaled_size = decode(data, CANVAS, exact=False)
    assert tuple(scaled_size) == size
    away = np.abs(scaled.astype(int) - exact)
    assert away.mean() < 1.5 and (away.any() or max(height, width) <= CANVAS)


def test_an_eighth_that_nearly_fills_the_canvas_is_not_resampled():
    data = photo(250, 500)  # four eighths are 250 pixels
    scaled, size = decode(data, 256, exact=False)
    assert tuple(size) == (125, 250)
    half = simplejpeg.decode_jpeg(data, min_height=125, min_width=250)
    np.testing.assert_array_equal(scaled[:125, :250], half)
    exact = Image.open(io.BytesIO(data)).resize((250, 125), Image.Resampling.BICUBIC)
    assert np.abs(half.astype(int) - np.asarray(exact)).mean() < 1.5
    assert decode_module.read(data).shape[:2] == (250, 500)


def test_a_crop_fills_the_canvas_with_its_box():
    data = photo(200, 320)
    uniform = np.linspace(0.05, 0.95, 22)
    top, left, h, w = decode_module.sample_box(200, 320, uniform, (0.5, 1.0), (0.75, 4 / 3))
    got = decode_module.crop_to_canvas(data, 24, uniform, (0.5, 1.0))
    whole = Image.open(io.BytesIO(data)).crop((left, top, left + w, top + h))
    want = np.asarray(whole.resize((24, 24), Image.Resampling.BICUBIC), int)
    assert got.shape == (24, 24, 3) and np.abs(got - want).mean() < 2


def test_boxes_are_those_of_the_device():
    from vitjax.ops import crop  # the data room may not import it; its test may

    jax = pytest.importorskip("jax")
    key = jax.random.key(3)
    for size in ((40, 300), (200, 170)):
        uniform = np.asarray(jax.random.uniform(key, (22,)))
        want = crop.sample_box(key, jax.numpy.array(size, "int32"))
        got = decode_module.sample_box(*size, uniform, (0.08, 1.0), (3 / 4, 4 / 3))
        assert got == tuple(int(x) for x in want)
