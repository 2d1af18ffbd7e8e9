import io
import lzma
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from vitjax.data import sources
from vitjax.data.decode import decode
from vitjax.data.folder import FolderSource

TREE = {
    "train": {"cat": 3, "ant": 2, "elk": 1},
    "test": {"cat": 2, "bee": 1},  # no ant, and a class that training lacks
}
CLASSES = ("ant", "bee", "cat", "elk")


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


@pytest.fixture
def tree(tmp_path):
    root, value = tmp_path / "zoo", 0
    for split, classes in TREE.items():
        for name, count in classes.items():
            for i in range(count):
                value += 1
                write(root / split / name / f"{i}.{('png', 'JPG', 'webp')[i]}", value)
    (root / "train/cat/notes.txt").write_text("no image")
    write(root / "train/cat/.hidden.png", 99)
    return root


def packed(root, name, mode, prefix="."):
    path = root.parent / name
    with tarfile.open(path, mode) as archive:
        archive.add(root, prefix)
    return path


def contents(source):
    return [(source.key(i), source[i]["image"], source[i]["label"]) for i in range(len(source))]


def test_classes_are_numbered_alike_in_every_split(tree):
    train, test = (sources.create("folder", split, path=tree) for split in TREE)
    assert train.info.names == test.info.names == CLASSES
    assert train.info.name == "zoo"
    assert train.labels.tolist() == [0, 0, 2, 2, 2, 3]
    assert test.labels.tolist() == [1, 2, 2]
    assert [test[i]["label"] for i in range(3)] == [1, 2, 2]
    assert train.key(0) == "train/ant/0.png"
    assert train[0]["image"] == png(4)


@pytest.mark.parametrize("name, mode", [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.txz", "w:xz")])
def test_an_archive_reads_as_its_folder(tree, name, mode):
    for split in TREE:
        source = FolderSource(split, path=packed(tree, name, mode))
        assert contents(source) == contents(FolderSource(split, path=tree))
        assert contents(pickle.loads(pickle.dumps(source))) == contents(source)
        assert source.info.names == CLASSES


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tree, cache_dir):
    before = set(cache_dir.iterdir())
    path = packed(tree, "b.tar.xz", "w:xz")
    FolderSource("train", path=path)
    (unpacked,) = set(cache_dir.iterdir()) - before
    age = unpacked.stat().st_mtime_ns
    FolderSource("test", path=path)
    assert unpacked.stat().st_mtime_ns == age
    write(tree / "train/elk/more.png", 50)
    packed(tree, "b.tar.xz", "w:xz")
    assert len(FolderSource("train", path=path)) == 7


def test_a_broken_archive_leaves_nothing_in_the_cache(tree, cache_dir):
    path = packed(tree, "c.tar.xz", "w:xz")
    path.write_bytes(path.read_bytes()[:-40])
    before = set(cache_dir.iterdir())
    with pytest.raises(ValueError, match=r"cannot be unpacked.*data\.path"):
        FolderSource("train", path=path)
    assert set(cache_dir.iterdir()) == before
    path.write_bytes(lzma.compress(b"no archive" * 100))
    with pytest.raises(ValueError, match=r"no whole tar archive.*data\.path"):
        FolderSource("train", path=path)


def test_many_threads_read_one_archive(tree):
    source = FolderSource("train", path=packed(tree, "d.tar", "w"))
    want = contents(FolderSource("train", path=tree))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: contents(source), range(40))) == [want] * 40


def test_an_archive_cut_short_after_indexing_is_noticed(tree):
    path = packed(tree, "e.tar", "w")
    source = FolderSource("train", path=path)
    os.truncate(path, 1000)
    with pytest.raises(OSError, match="changed since"):
        contents(source)


def test_a_damaged_archive_is_no_shorter_one(tree):
    path = packed(tree, "g.tar", "w")
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        middle = archive.getmembers()[9]
    data[middle.offset] ^= 1  # in the name: the header's checksum no longer fits
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"no whole tar archive.*damaged.*data\.path"):
        FolderSource("train", path=path)


def test_an_archive_cut_between_two_members_is_no_whole_one(tree):
    path = packed(tree, "h.tar", "w")
    with tarfile.open(path) as archive:
        middle = archive.getmembers()[9]
    os.truncate(path, middle.offset)
    with pytest.raises(ValueError, match="no whole tar archive"):
        FolderSource("train", path=path)


def test_links_of_an_archive_are_images_too(tree):
    os.link(tree / "train/cat/0.png", tree / "train/cat/hard.png")
    (tree / "train/elk/soft.png").symlink_to("../cat/hard.png")
    source = FolderSource("train", path=packed(tree, "i.tar", "w"))
    assert contents(source) == contents(FolderSource("train", path=tree))
    assert len(source) == 8
    (tree / "train/elk/lost.png").symlink_to("../cat/none.png")
    with pytest.raises(ValueError, match=r"link train/elk/lost\.png to train/cat/none\.png"):
        FolderSource("train", path=packed(tree, "j.tar", "w"))


def test_a_link_to_a_folder_is_followed_but_not_in_a_circle(tree):
    (tree / "train/elk/kin").symlink_to(tree / "train/cat")
    assert len(FolderSource("train", path=tree)) == 9
    (tree / "train/elk/self").symlink_to(tree / "train")
    assert len(FolderSource("train", path=tree)) == 9


def test_classes_without_splits_are_the_split_all(tree):
    source = FolderSource("all", path=tree / "train")
    assert source.info.names == ("ant", "cat", "elk")
    assert source.key(0) == "ant/0.png"
    with pytest.raises(ValueError, match="'train', only all"):
        FolderSource("train", path=tree / "train")


def test_images_without_classes_are_unlabelled(tree):
    source = FolderSource("all", path=tree / "train/cat")
    assert source.info.names == ("unlabelled",)
    assert len(source) == 3
    assert not source.labels.any()


def test_images_may_lie_deeper_than_their_class(tree):
    write(tree / "train/cat/long/haired/1.png", 40)
    source = FolderSource("train", path=tree)
    assert source.info.names == CLASSES
    assert np.bincount(source.labels).tolist() == [2, 0, 4, 1]


def test_wrong_folders_say_what_is_wrong(tree, tmp_path):
    def refuse(match, path, split="train"):
        with pytest.raises(ValueError, match=match) as error:
            FolderSource(split, path=path)
        assert "\n" not in str(error.value)

    refuse(r"no file or folder.*data\.path", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refuse(r"no images.*data\.path", tmp_path / "empty")
    refuse("'val', only test, train", tree, "val")
    refuse("is a folder, .tar", tree / "train/cat/0.png")
    (tree / "train/yak").mkdir()
    refuse("no images in train/yak", tree)
    refuse("no images in train/yak", packed(tree, "f.tar", "w"))
    assert len(FolderSource("test", path=tree)) == 3
    write(tree / "train/stray.png", 1)
    refuse("mixes layouts, train/stray.png and", tree)


def test_photographs_of_an_archive_without_folders(real_data):
    source = sources.create("folder", "all", path=real_data / "photos.tar")
    assert len(source) == 250
    assert source.info.names == ("unlabelled",)
    image, (height, width) = decode(source[100]["image"], 96)
    assert max(height, width) == 96
    assert image[:height, :width].std() > 10


def test_the_real_cifar_archive(real_data):
    path = real_data / "cifar10.tar.xz"
    train, test = (sources.create("folder", split, path=path) for split in ("train", "test"))
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.info.classes == 10
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    for index in (0, 12_345, 49_999):
        _, size = decode(train[index]["image"], 32)
        assert size.tolist() == [32, 32]
        assert train.key(index).split("/")[1] == train.info.names[train.labels[index]]
