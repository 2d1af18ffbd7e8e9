"""vitjax features: one row per image that can be read, and a page that needs nothing else."""

import re

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vitjax.verbs import features


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve digits of two classes as PNG, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    pixels, label = load_digits(return_X_y=True)
    for digit, name in ((0, "zero"), (1, "one & only")):
        (folder / name).mkdir()
        for i, row in enumerate(np.flatnonzero(label == digit)[:6]):
            picture = (pixels[row].reshape(8, 8) * 15).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    (folder / "zero" / "2.png").write_bytes(b"no image")
    return folder


def test_a_folder_becomes_embeddings_and_a_page(trained, images, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    argv = ["--checkpoint", str(trained), "--images", str(images), "--out", str(out)]
    features.run(
        [*argv, "--pictures=4", "--query=0,3", "--against", str(trained / "checkpoints" / "4")]
    )
    arrays = np.load(out / "embeddings.npz")
    names = [f"one & only/{i}.png" for i in range(6)]
    names += [f"zero/{i}.png" for i in range(6) if i != 2]
    assert arrays["name"].tolist() == names
    assert arrays["embedding"].shape == (11, 16) and np.isfinite(arrays["embedding"]).all()
    table = parquet.read_table(out / "embeddings.parquet").to_pydict()
    assert table["name"] == names and table["class"] == [n.split("/")[0] for n in names]
    np.testing.assert_array_equal(table["embedding"], arrays["embedding"])

    page = (out / "index.html").read_text()
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    drawn = {file.name for file in out.glob("*.png")}
    assert {"pca.png", "attention_patch.png", "matches.png", "neighbours.png", "map.png"} <= drawn
    assert page.count("<img") == len(drawn)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)  # nothing to fetch
    assert "patch in row 1, column 4" in page


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ((), "one of --images and --data"),
        (("--images=nowhere",), "no file or folder nowhere"),
        (("--images=IMAGES", "--pictures=1"), "--pictures=1: expected at least 2"),
        (("--images=IMAGES", "--part=train"), "has no split 'train'"),
        (("--images=IMAGES", "--query=9,9"), "expected a patch of the grid"),
        (("--images=IMAGES", "--against=RUN"), "names a run twice"),
    ],
)
def test_bad_input_is_one_line(trained, images, tmp_path, argv, named):
    argv = [part.replace("IMAGES", str(images)).replace("RUN", str(trained)) for part in argv]
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        features.run(["--checkpoint", str(trained), "--out", str(tmp_path / "out"), *argv])
    assert named in str(error.value)
