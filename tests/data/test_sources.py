import json
import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import sklearn.datasets

from vitjax.data import sources
from vitjax.data.annotations import read_map
from vitjax.data.decode import decode
from vitjax.data.prepare import prepare_digits

DIGITS = sklearn.datasets.load_digits()
PIXELS = np.rint(DIGITS.images / 16 * 255).astype(np.uint8)


def pixels_of(source):
    images = [decode(source[i]["image"], 8)[0] for i in range(len(source))]
    assert all((image == image[:, :, :1]).all() for image in images)
    return np.stack([image[:, :, 0] for image in images])


def open_digits(split, digits_dir, **settings):
    return sources.create("digits", split, data_dir=digits_dir, **settings)


def test_digits_by_writers_are_those_of_scikit_learn_in_their_order(digits_dir):
    train, test = (open_digits(s, digits_dir, split_by="writers") for s in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    np.testing.assert_array_equal(np.concatenate([pixels_of(train), pixels_of(test)]), PIXELS)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), DIGITS.target)
    assert [train[i]["label"] for i in range(9)] == train.labels[:9].tolist()
    assert train.info.names == tuple("0123456789")
    assert train.info.classes == 10
    assert train.info.licence == "CC BY 4.0"
    assert train.key(5) == "train/5"


def test_digits_at_random_are_a_stratified_partition(digits_dir):
    train, test = (open_digits(s, digits_dir) for s in ("train", "test"))
    together = np.concatenate([pixels_of(train), pixels_of(test)])
    assert sorted(map(bytes, together)) == sorted(map(bytes, PIXELS))
    share = np.bincount(test.labels) / np.bincount(DIGITS.target)
    assert np.all(np.abs(share - 0.2) < 0.01)


def test_slices_of_splits_and_pickles_read_the_same(digits_dir):
    whole = open_digits("train", digits_dir)
    half = open_digits("train[50%:]", digits_dir)
    assert len(half) == len(whole) - len(open_digits("train[:50%]", digits_dir))
    np.testing.assert_array_equal(half.labels, whole.labels[-len(half) :])
    again = pickle.loads(pickle.dumps(whole))
    assert again[11] == whole[11]
    np.testing.assert_array_equal(again.labels, whole.labels)


def test_labels_are_kept_beside_the_data(digits_dir, monkeypatch):
    labels = open_digits("test", digits_dir).labels
    source = open_digits("test", digits_dir)
    monkeypatch.setattr(source, "_records", None)  # reading a record now fails
    np.testing.assert_array_equal(source.labels, labels)


def test_a_failed_preparation_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_digits(tmp_path, "random")
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert len(open_digits("train", tmp_path)) == 1438


def test_two_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        folders = pool.starmap(prepare_digits, [(tmp_path, "writers")] * 2)
    assert folders[0] == folders[1]
    assert len(open_digits("test", tmp_path, split_by="writers")) == 359
    assert not list(tmp_path.glob("incomplete*"))


def test_reading_is_safe_from_many_threads(digits_dir):
    source = open_digits("train", digits_dir)
    want = [source[i] for i in range(200)]
    fresh, wrong = open_digits("train", digits_dir), []

    def read():
        wrong.extend(i for i in range(200) if fresh[i] != want[i])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tfds_reads_a_prepared_data_set_by_name(digits_dir):
    digits = open_digits("train", digits_dir)
    dataset = "vitjax_digits/random:1.0.0"
    source = sources.create("tfds", "train", dataset=dataset, data_dir=digits_dir)
    assert source.info == digits.info
    assert source[7] == digits[7]


def test_a_feature_of_a_tfds_data_set_may_be_a_map(digits_dir):
    where = {"dataset": "vitjax_digits/random:1.0.0", "data_dir": digits_dir}
    source = sources.create("tfds", "train", mask="image", **where)
    assert source.annotations == ("mask",) and source[7]["mask"] == source[7]["image"]
    assert read_map(source[7]["mask"], "mask").shape == (8, 8)
    with pytest.raises(ValueError, match=r"^[^\n]*no feature 'deep', only [^\n]*data.depth$"):
        sources.create("tfds", "train", depth="deep", **where)


@pytest.fixture
def copied(digits_dir, tmp_path):
    """A copy of the prepared digits whose files may be spoilt."""
    folder = prepare_digits(tmp_path, "random")

    def spoil(name, change):
        path = folder / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return {"dataset": "vitjax_digits/random:1.0.0", "data_dir": tmp_path}

    return spoil


def test_tfds_files_of_another_format_name_the_command(copied):
    settings = copied("dataset_info.json", lambda info: info | {"fileFormat": "tfrecord"})
    with pytest.raises(ValueError, match=r"tfds build .*--file_format=array_record"):
        sources.create("tfds", "train", **settings)


def test_tfds_without_labels_names_the_features_it_has(copied):
    def rename(features):
        features["featuresDict"]["features"]["digit"] = features["featuresDict"]["features"].pop(
            "label"
        )
        return features

    with pytest.raises(ValueError, match=r"no feature 'label'.*digit, image.*data\.dataset"):
        sources.create("tfds", "train", **copied("features.json", rename))


def test_tfds_not_prepared_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=f"tfds build cifar10:3.0.2 .*--data_dir={tmp_path}"):
        sources.create("tfds", "train", dataset="cifar10:3.0.2", data_dir=tmp_path)


@pytest.mark.parametrize("split", ["valid", "train[:oops]"])
def test_an_unknown_split_names_those_there_are(digits_dir, split):
    with pytest.raises(ValueError, match="test, train"):
        open_digits(split, digits_dir)


def test_unknown_names_and_settings_are_refused(digits_dir):
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        sources.create("digit", "train")
    with pytest.raises(ValueError, match=r"data\.split_by"):
        open_digits("train", digits_dir, split_by="month")
    with pytest.raises(TypeError, match="colour"):
        open_digits("train", digits_dir, colour=True)
