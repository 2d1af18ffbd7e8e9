"""vitjax prepare: what is written is what was there, whatever it came from, and after a kill."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from vitjax.data import gather, shards, writing
from vitjax.data.prepare import prepare_digits
from vitjax.data.records import open_tfds
from vitjax.data.shards import ShardSource
from vitjax.verbs import prepare

CLASSES = ("cat", "dog")


def jpeg(number, size=(11, 7), **settings):
    pixels = np.full((size[1], size[0], 3), (40 * number) % 256, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **settings)
    return file.getvalue()


def in_process(monkeypatch):
    """Shards are written here, so that a test does not start processes."""

    class Pool:
        def __init__(self, *given, **settings):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def submit(self, function, *given):
            future = writing.concurrent.futures.Future()
            try:
                future.set_result(function(*given))
            except Exception as error:
                future.set_exception(error)
            return future

        def shutdown(self, **settings):
            pass

    monkeypatch.setattr(writing.concurrent.futures, "ProcessPoolExecutor", Pool)


@pytest.fixture
def here(monkeypatch):
    in_process(monkeypatch)
    monkeypatch.setattr(gather, "SHARD_EXAMPLES", 3)


def folder(root, count=7):
    """split/class/image; returns {key: (label, bytes)} of train."""
    known = {}
    for number in range(count):
        name = f"train/{CLASSES[number % 2]}/{number}.jpg"
        for file in (name, name.replace("train", "val")):
            root.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
            root.joinpath(file).write_bytes(jpeg(number))
        known[name] = (number % 2, jpeg(number))
    return known


def contents(path, split="train"):
    source = ShardSource(split, path=path)
    examples = [source[index] for index in range(len(source))]
    np.testing.assert_array_equal(source.labels, [example["label"] for example in examples])
    return {
        source.key(index): (example["label"], example["image"])
        for index, example in enumerate(examples)
    }


def test_a_folder_keeps_names_labels_and_bytes(tmp_path, here, capsys):
    known = folder(tmp_path / "photos")
    prepare.run([str(tmp_path / "photos"), "--out", str(tmp_path / "out")])
    assert "train: 7 images of 2 classes in 3 shards; 0 unreadable" in capsys.readouterr().out
    assert contents(tmp_path / "out") == known
    assert len(contents(tmp_path / "out", "val")) == 7
    source = ShardSource("train", path=tmp_path / "out")
    assert source.info.names == CLASSES and source.lacking == ()
    several = source.__getitems__([5, 0])
    assert [each["label"] for each in several] == [source[5]["label"], source[0]["label"]]
    assert shards.verify(tmp_path / "out") == []
    prepare.run([str(tmp_path), "--out", str(tmp_path / "out"), "--verify"])


def test_what_a_kill_left_is_finished_and_nothing_is_written_twice(tmp_path, here, monkeypatch):
    folder(tmp_path / "photos")
    gathered, out = gather.gather(str(tmp_path / "photos")), tmp_path / "out"
    whole = tmp_path / "whole"
    writing.write(gathered, whole, writing.Form())
    written = []
    pack, stop = shards.pack, 5

    def failing(key, label, image):
        written.append(key)
        if len(written) == stop:
            raise KeyboardInterrupt
        return pack(key, label, image)

    monkeypatch.setattr(shards, "pack", failing)
    with pytest.raises(KeyboardInterrupt):
        writing.write(gathered, out, writing.Form())
    assert not (out / "manifest.json").exists()
    with pytest.raises(ValueError, match="holds no prepared data set"):
        ShardSource("train", path=out)
    stop = None
    writing.write(gathered, out, writing.Form())
    assert len(written) == 14 + 2  # the two of the shard that was cut off, again
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name
    with pytest.raises(ValueError, match="begun with another form"):
        writing.write(gathered, out, writing.Form(shorter=5))


def test_damage_is_found(tmp_path, here):
    folder(tmp_path / "photos")
    writing.write(gather.gather(str(tmp_path / "photos")), tmp_path / "out", writing.Form())
    shard = next((tmp_path / "out").glob("train-00001*.array_record"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"1 shards .* are damaged: {shard.name}"):
        prepare.run(["x", "--out", str(tmp_path / "out"), "--verify"])


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset_tars(tmp_path, here):
    known = {}
    for shard in range(2):
        members = {}
        for number in range(3):
            label = shard + number
            stem = f"{number:04d}"
            note = {"cls": str(label).encode()}
            note = note if shard else {"json": json.dumps({"label": label}).encode()}
            members |= {f"{stem}.{kind}": data for kind, data in note.items()}
            members[f"{stem}.jpg"] = jpeg(label)
            known[f"train-{shard}/{stem}"] = (label, jpeg(label))
        tar(tmp_path / f"train-{shard}.tar", members)
    writing.write(gather.gather(str(tmp_path / "*.tar")), tmp_path / "out", writing.Form())
    assert contents(tmp_path / "out") == known
    assert ShardSource("train", path=tmp_path / "out").info.names == ("0", "1", "2", "3")


def test_tars_without_labels_are_classes(tmp_path, here):
    """ImageNet-21k as it is given out: a tar per class."""
    for label, name in enumerate(("n001", "n002")):
        tar(tmp_path / f"{name}.tar", {f"{name}_{i}.JPEG": jpeg(i + label) for i in range(2)})
    writing.write(gather.gather(str(tmp_path)), tmp_path / "out", writing.Form())
    found = contents(tmp_path / "out")
    assert [label for label, _ in found.values()] == [0, 0, 1, 1]
    assert ShardSource("train", path=tmp_path / "out").info.names == ("n001", "n002")


def test_parquet_with_image_bytes(tmp_path, here):
    features = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    rows = [{"bytes": jpeg(number), "path": None} for number in range(4)]
    table = pa.table({"image": rows, "label": [0, 1, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "validation-00000-of-00001.parquet")
    writing.write(gather.gather(str(tmp_path)), tmp_path / "out", writing.Form())
    found = contents(tmp_path / "out", "validation")
    assert list(found.values()) == [(label, jpeg(i)) for i, label in enumerate((0, 1, 1, 0))]
    assert ShardSource("validation", path=tmp_path / "out").info.names == CLASSES


def test_a_tfds_data_set_keeps_splits_names_and_bytes(tmp_path, monkeypatch):
    in_process(monkeypatch)
    monkeypatch.setattr(gather, "SHARD_EXAMPLES", 700)
    prepare_digits(tmp_path / "tfds")
    source = f"tfds:vitjax_digits/random@{tmp_path / 'tfds'}"
    prepare.run([source, "--out", str(tmp_path / "out")])
    original = open_tfds("test", dataset="vitjax_digits/random", data_dir=tmp_path / "tfds")
    written = ShardSource("test", path=tmp_path / "out")
    assert written.info.names == original.info.names
    assert len(ShardSource("train", path=tmp_path / "out")) == 1797 - len(original)
    for index in (0, 7, len(original) - 1):
        assert written[index] == original[index]


def test_images_are_shrunk_turned_and_kept_as_pixels():
    wide = jpeg(3, (40, 24))
    assert writing.formed(wide, writing.Form(shorter=24)) == wide  # small enough: its own bytes
    shrunk = Image.open(io.BytesIO(writing.formed(wide, writing.Form(shorter=12))))
    assert shrunk.size == (20, 12) and shrunk.format == "JPEG"
    exif = Image.Exif()
    exif[writing.ORIENTATION] = 6
    lying = jpeg(3, (40, 24), exif=exif)
    turned = Image.open(io.BytesIO(writing.formed(lying, writing.Form(upright=True))))
    assert turned.size == (24, 40) and not turned.getexif()
    assert writing.formed(lying, writing.Form()) == lying
    pixels = writing.formed(wide, writing.Form(raw=True))
    assert pixels.shape == (24, 40, 3)
    key, label, image = shards.unpack(shards.pack("å", 5, pixels))
    assert (key, label) == ("å", 5)
    np.testing.assert_array_equal(image, pixels)


def test_unreadable_images_are_named_counted_and_limited(tmp_path, here, capsys):
    known = folder(tmp_path / "photos")
    for name in ("train/cat/0.jpg", "train/dog/1.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"" if "cat" in name else jpeg(1)[:40])
        del known[name]
    out = [str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"^2 of 14 images .* --bad_share=0.01 .*cat/0.jpg"):
        prepare.run(out)
    prepare.run([*out, "--bad_share", "0.2"])
    assert contents(tmp_path / "out") == known
    said = capsys.readouterr()
    assert "2 unreadable left out" in said.out and "dog/1.jpg: unreadable image" in said.err


def test_a_source_that_is_not_there_is_named(tmp_path):
    for source, message in (
        ("nothing", "no file or folder nothing"),
        ("no*.tar", "no files match"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare.run([source, "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="needs --out"):
        prepare.run([str(tmp_path)])


@pytest.mark.slow
def test_processes_write_the_same_bytes_and_a_dead_one_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "SHARD_EXAMPLES", 2)
    folder(tmp_path / "photos", 9)
    gathered = gather.gather(str(tmp_path / "photos"))
    writing.write(gathered, tmp_path / "two", writing.Form(), workers=2)
    in_process(monkeypatch)
    writing.write(gathered, tmp_path / "one", writing.Form())
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    monkeypatch.undo()
    killed = gather.Gathered("killed", [gather.Job("train", ("killed", ()))], None)
    monkeypatch.setattr(writing, "write_shard", _die)
    with pytest.raises(ValueError, match="a worker died while it wrote train-00000"):
        writing.write(killed, tmp_path / "dead", writing.Form(), workers=1)


def _die(*given):
    import os

    os._exit(9)
