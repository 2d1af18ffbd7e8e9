"""The preview shows what the step would be given."""

import jax
import numpy as np
from PIL import Image

from vitjax.train import preview, setup, start
from vitjax.train import recipe as recipe_lib
from vitjax.train.state import stream


def test_the_sheet_holds_the_views_of_the_first_batch(recipe, tmp_path, monkeypatch):
    recipe["views"] |= {"mixup": 0.8, "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
    seen = {}

    def spy(batch, rows, labels):
        seen.update(batch=batch, rows=rows, labels=labels)
        return draw(batch, rows, labels)

    draw = preview.draw
    monkeypatch.setattr(preview, "draw", spy)
    file = preview.preview(recipe, tmp_path)
    with Image.open(file) as sheet:
        assert sheet.width > 200 and sheet.height > 900

    read = recipe_lib.read(recipe)
    splits = start.open_splits(read)
    with start.open_batches(read, splits["train"], None) as batches:
        batch = next(batches)
    np.testing.assert_array_equal(seen["batch"]["image"], batch["image"])
    make = jax.jit(setup.make_views(read, "float32")["train"])
    views = make(batch, stream(read.seed, "views"))
    want = np.asarray(views["image"]) * np.array([0.5, 0.6, 0.7]) + np.array([0.2, 0.3, 0.4])
    got = np.stack([row[0] for row in seen["rows"]])
    np.testing.assert_allclose(got, np.clip(want[:8], 0, 1), atol=1e-5)
    for text, soft in zip(seen["labels"], np.asarray(views["label"]), strict=False):
        top = soft.argmax()
        share = "" if soft[top] > 0.9995 else f" {100 * soft[top]:.0f}%"
        assert text.split("\n")[0] == f"{top}{share}"
    assert any("\n" in text for text in seen["labels"])
    assert list(tmp_path.iterdir()) == [tmp_path / "figures"]  # no run was begun
