"""TFDS data sets in ArrayRecord form, read without TensorFlow."""

import contextlib
import functools
import hashlib
import os
import pathlib
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from vitjax.data.info import Info
from vitjax.data.prepare import prepare_digits

CHUNK = 1024  # records read at once when all labels are wanted


class RecordSource:
    """A split of a prepared TFDS classification data set; images stay encoded.

    builder: a TFDS builder whose files are ArrayRecord. split: a split or sub-split of it, such
    as "train[:50%]". `make` is the command that prepares the data set, for error messages.
    maps: {annotation: the feature that holds it}, see annotations.py.
    """

    lacking = ()  # to count the classes, every record would be read

    def __init__(self, builder, split, make, maps=None):
        features, name = builder.info.features, builder.info.full_name
        self._maps = maps or {}
        self.annotations = tuple(self._maps)
        for kind, feature in self._maps.items():
            if feature not in features:
                raise ValueError(
                    f"TFDS data set {name} has no feature {feature!r}, only "
                    f"{', '.join(sorted(features))}: change data.{kind}"
                )
        for feature, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel)):
            if feature not in features or not isinstance(features[feature], kind):
                raise ValueError(
                    f"TFDS data set {name} has no feature {feature!r} of type {kind.__name__}, "
                    f"only {', '.join(sorted(features))}: change data.dataset"
                )
        encoded = {
            feature: tfds.decode.SkipDecoding()
            for feature, kind in features.items()
            if isinstance(kind, tfds.features.Image)
        }
        try:
            self._records = builder.as_data_source(split, decoders=encoded)
        except NotImplementedError as error:
            raise ValueError(
                f"TFDS data set {name} is not stored as ArrayRecord: run `{make}`"
            ) from error
        except (ValueError, KeyError, AssertionError) as error:
            raise ValueError(
                f"TFDS data set {name} has no split {split!r}, only "
                f"{', '.join(sorted(builder.info.splits))} and slices of them: change the split "
                f"named in data"
            ) from error
        self._split = split
        self._folder = os.fspath(builder.data_path)
        licence = builder.info.as_proto.redistribution_info.license
        self.info = Info(name, tuple(features["label"].names), licence or "unknown")

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        record = self._records[index]
        example = {"image": record["image"], "label": int(record["label"])}
        return example | {kind: record[feature] for kind, feature in self._maps.items()}

    def key(self, index):
        return f"{self._split}/{index}"

    @functools.cached_property
    def labels(self):
        """All labels, int32. The first call reads every record, and keeps them beside the data."""
        digest = hashlib.blake2b(self._split.encode(), digest_size=8).hexdigest()
        cache = pathlib.Path(self._folder, f"vitjax_labels_{digest}.npy")
        if cache.exists():
            return np.load(cache)
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), CHUNK):
            indices = range(start, min(start + CHUNK, len(self)))
            records = self._records.__getitems__(list(indices))
            labels[indices.start : indices.stop] = [record["label"] for record in records]
        with contextlib.suppress(OSError):  # a read-only data set is read again next time
            _save(cache, labels)
        return labels


def _save(path, array):
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        aside = pathlib.Path(folder, path.name)
        np.save(aside, array)
        os.replace(aside, path)


def open_tfds(split, *, dataset, data_dir=None, mask=None, part=None, depth=None):
    """Any prepared TFDS classification data set.

    dataset: its TFDS name, such as "cifar10:3.0.2". data_dir: where TFDS keeps its data; None is
    TFDS's own default ($TFDS_DATA_DIR or ~/tensorflow_datasets). mask, part, depth: the names of
    the features that hold these maps, where it has some (see annotations.py).
    """
    place = data_dir or tfds.core.constants.DATA_DIR
    make = f"tfds build {dataset} --file_format=array_record --data_dir={place}"
    try:
        builder = read_only_builder.builder_from_files(dataset, data_dir=place)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"TFDS data set {dataset!r} is not prepared in {place}: run `{make}`, or change "
            f"data.dataset or data.data_dir"
        ) from error
    maps = {"mask": mask, "part": part, "depth": depth}
    maps = {kind: feature for kind, feature in maps.items() if feature is not None}
    return RecordSource(builder, split, make, maps)


def open_digits(split, *, split_by="random", data_dir=None):
    """scikit-learn's handwritten digits, written as a TFDS data set at first use.

    split: "train" or "test", or a slice of them. split_by: see prepare.VitjaxDigits.
    data_dir: as for `open_tfds`.
    """
    folder = prepare_digits(data_dir, split_by)
    return RecordSource(
        tfds.builder_from_directory(folder), split, "python -m vitjax prepare digits"
    )
