"""What is known of pixels arrives on the canvas where the image does."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from synthetic import Arrays

from vitjax.data import annotations, pipeline
from vitjax.data.folder import FolderSource
from vitjax.data.info import Info
from vitjax.data.splits import Split


def png(array):
    data = io.BytesIO()
    Image.fromarray(array).save(data, "png")
    return data.getvalue()


class Known(Arrays):
    """Arrays with a mask (the first channel of the image) and two points."""

    annotations = ("mask", "points")

    def __init__(self, count, broken=()):
        super().__init__(count, broken=broken)
        self.annotations = ("mask", "points")
        self.info = Info("known", self.info.names, "none", ("top left", "end"))

    def __getitem__(self, index):
        example = super().__getitem__(index)
        if index in self.broken:
            return example
        height, width = example["image"].shape[:2]
        points = np.array([[0.5, 0.5, 1], [height - 0.5, width - 0.5, index % 2]])
        return example | {"mask": png(example["image"][:, :, 0]), "points": points}


def test_annotations_stand_in_the_row_of_their_image():
    split = Split(Known(11, broken=(4,)), np.arange(10, -1, -1))
    rows = list(pipeline.eval_batches(split, batch_size=4, canvas=6, bad_share=0.2, annotated=True))
    batch = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    assert batch["mask"].shape == (12, 6, 6) and batch["points"].shape == (12, 2, 3)
    for row in range(12):
        height, width = batch["size"][row]
        if batch["label"][row] < 0:  # the broken image, and padding
            assert (batch["mask"][row] == 255).all() and not batch["points"][row].any()
            continue
        inside = batch["mask"][row, :height, :width]
        np.testing.assert_array_equal(inside, batch["image"][row, :height, :width, 0])
        assert (batch["mask"][row].sum() - inside.sum()) == 255 * (36 - height * width)
        np.testing.assert_array_equal(batch["points"][row, 1, :2], [height - 0.5, width - 0.5])
    plain = next(iter(pipeline.eval_batches(split, batch_size=4, canvas=6)))
    assert "mask" not in plain and "points" not in plain


def test_maps_and_points_shrink_with_the_image():
    source = Known(1)
    rows = annotations.empty(source, 1, 4)
    mask = np.repeat(np.repeat(np.arange(8, dtype=np.uint8).reshape(4, 2), 2, 0), 4, 1)  # [8, 8]
    example = {"mask": mask, "points": np.array([[8.0, 4.0, 1.0], [1.0, 6.0, 0.0]])}
    annotations.fill(rows, 0, example, (8, 8), (4, 4))
    np.testing.assert_array_equal(rows["mask"][0], np.repeat(np.arange(8).reshape(4, 2), 2, 1))
    np.testing.assert_array_equal(rows["points"][0], [[4, 2, 1], [0.5, 3, 0]])


def test_a_map_of_another_shape_is_refused():
    rows = annotations.empty(Known(1), 1, 4)
    with pytest.raises(ValueError, match=r"^a mask of 3 x 2 pixels .* image of 2 x 3: [^\n]*$"):
        annotations.fill(rows, 0, {"mask": np.zeros((3, 2)), "points": 0}, (2, 3), (2, 3))


def test_classes_that_do_not_fit_are_refused():
    for wrong in (300, -1):
        with pytest.raises(ValueError, match=rf"^a mask holds [^\n]*{wrong}[^\n]* 0 to 254[^\n]*$"):
            annotations.read_map(np.array([[7, wrong]]), "mask")


def test_a_depth_png_of_16_bits_counts_millimetres():
    depth = np.array([[0, 1500], [65535, 7]], np.uint16)
    got = annotations.read_map(png(depth), "depth")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, depth / 1000, rtol=1e-6)


def test_a_palette_keeps_its_numbers():
    image = Image.fromarray(np.array([[3, 0], [255, 1]], np.uint8), "P")
    image.putpalette(list(range(255, -1, -1)) * 3)
    data = io.BytesIO()
    image.save(data, "png")
    np.testing.assert_array_equal(annotations.read_map(data.getvalue(), "mask"), [[3, 0], [255, 1]])


@pytest.fixture
def tree(tmp_path):
    """Two photos with masks, depth and points."""
    rng, points = np.random.default_rng(0), {}
    for name in ("train/cat/a", "train/dog/b"):
        for kind, suffix, shape in (("images", "jpg", (5, 7, 3)), ("masks", "png", (5, 7))):
            file = tmp_path / kind / f"{name}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 3, shape, np.uint8)).save(file)
        points[f"{name}.jpg"] = [[1.5, 2.5, 1]]
    (tmp_path / "points.json").write_text(json.dumps({"names": ["eye"], "points": points}))
    return tmp_path


def test_a_folder_has_its_maps_beside_it(tree):
    source = FolderSource(
        "train", path=tree / "images", mask=tree / "masks", points=tree / "points.json"
    )
    assert source.annotations == ("mask", "points") and source.info.points == ("eye",)
    batch = next(pipeline.eval_batches(Split(source), batch_size=2, canvas=8, annotated=True))
    want = np.asarray(Image.open(tree / "masks/train/dog/b.png"))
    np.testing.assert_array_equal(batch["mask"][1, :5, :7], want)
    np.testing.assert_array_equal(batch["points"][1], [[1.5, 2.5, 1]])


def test_a_map_or_point_that_is_missing_is_one_line_that_names_the_key(tree):
    (tree / "masks/train/dog/b.png").unlink()
    with pytest.raises(ValueError, match=r"^[^\n]*train/dog/b.jpg the first: change data.mask$"):
        FolderSource("train", path=tree / "images", mask=tree / "masks")
    with pytest.raises(ValueError, match=r"^no file or folder nowhere: change data.depth$"):
        FolderSource("train", path=tree / "images", depth="nowhere")
    (tree / "points.json").write_text('{"names": ["eye"], "points": {}}')
    for text in ("[]", "{", '{"names": 3}', '{"names": ["eye"], "points": {}}'):
        (tree / "points.json").write_text(text)
        with pytest.raises(ValueError, match=r"^[^\n]*data.points$"):
            FolderSource("train", path=tree / "images", points=tree / "points.json")
