"""What `vitjax prepare` reads: folders, archives, TFDS, WebDataset tars, Parquet with image bytes.

A source becomes jobs, one output shard each, that any process can do alone: (key, label, bytes) of
their examples.
"""

import dataclasses
import glob
import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet

from vitjax.data.archive import EXTENSIONS
from vitjax.data.folder import FolderSource

SHARD_EXAMPLES = 4096  # of sources that can be cut anywhere: a few hundred megabytes
SPLIT = re.compile(r"^(train|validation|val|test)(?=[-_.])")


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to write. reads: (kind, its arguments), what `examples` takes."""

    split: str
    reads: tuple[str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Gathered:
    """names: of classes in label order, None where labels are numbers without names."""

    name: str
    jobs: list[Job]
    names: tuple[str, ...] | None
    licence: str = "unknown"


def gather(source, split="train"):
    """What there is to write of a source; split: of files whose names do not say it.

    source: "tfds:NAME" or "tfds:NAME@DATA_DIR"; a folder of images, or an archive of one (as the
    `folder` source takes them); a folder or pattern of .tar files (WebDataset: members of one stem
    are an example, its label in .cls or .json; tars without labels are a class each, as
    ImageNet-21k's are); a folder or pattern of .parquet files (columns image and label).
    """
    if source.startswith("tfds:"):
        return _tfds(*source.removeprefix("tfds:").partition("@")[::2])
    files = _files(source)
    kinds = {pathlib.Path(file).suffix for file in files}
    name = pathlib.Path(re.sub(r"[*?\[].*", "", source) or source).name.split(".")[0] or "images"
    if kinds == {".parquet"}:
        jobs = [Job(_split_of(file, split), ("parquet", (file,))) for file in files]
        return Gathered(name, jobs, _parquet_names(files[0]))
    if kinds == {".tar"} and (os.path.isdir(source) or glob.has_magic(source)):
        return _tars(name, files, split)
    return _indexed(name, "folder", {"path": source}, _splits_of(source))


def examples(job) -> Iterator[tuple[str, int, bytes]]:
    """(key, label, bytes or pixels of the image) of a job, in order."""
    kind, arguments = job.reads
    return READERS[kind](*arguments)


def _files(source):
    """Tars and Parquet files of a folder or pattern, sorted; none for a folder of images."""
    if glob.has_magic(source):
        files = glob.glob(source)
    elif os.path.isdir(source):
        files = [entry.path for entry in os.scandir(source) if entry.is_file()]
        files = [file for file in files if file.endswith((".tar", ".parquet"))]
    else:
        files = [source]
    if not files and not os.path.isdir(source):
        raise ValueError(f"no files match {source}: change SRC")
    if not os.path.exists(source) and not glob.has_magic(source):
        raise ValueError(f"no file or folder {source}: change SRC")
    return sorted(files)


def _split_of(file, split):
    found = SPLIT.match(pathlib.Path(file).name)
    return found[1] if found else split


# Sources with random access: cut into ranges.


def _splits_of(path):
    """The splits of a folder or archive, as the source itself names them."""
    try:
        FolderSource("", path=path)
    except ValueError as error:
        found = re.search(r"has no split '', only (.*): change", str(error))
        if not found:
            raise
        return found[1].split(", ")
    return []


def _indexed(name, kind, settings, splits):
    jobs, opened = [], None
    for split in splits:
        opened = _open(kind, split, settings)
        for start in range(0, len(opened), SHARD_EXAMPLES):
            stop = min(start + SHARD_EXAMPLES, len(opened))
            place = (kind, split, tuple(settings.items()), start, stop)
            jobs.append(Job(split, ("indexed", place)))
    return Gathered(name, jobs, opened.info.names, opened.info.licence)


def _tfds(dataset, data_dir):
    import tensorflow_datasets as tfds  # seconds, for those who need it

    place = data_dir or tfds.core.constants.DATA_DIR
    builder = tfds.core.read_only_builder.builder_from_files(dataset, data_dir=place)
    settings = {"dataset": dataset, "data_dir": place}
    return _indexed(dataset.partition(":")[0], "tfds", settings, sorted(builder.info.splits))


def _open(kind, split, settings):
    if kind == "folder":
        return FolderSource(split, **settings)
    from vitjax.data.records import open_tfds

    return open_tfds(split, **settings)


def _read_indexed(kind, split, settings, start, stop):
    source = _open(kind, split, dict(settings))
    for index in range(start, stop):
        example = source[index]
        yield source.key(index), example["label"], example["image"]


# Tars, read from front to back.


def _tars(name, files, split):
    """A job per tar. Where the first holds no labels, each is a class of its own name."""
    _, label, _ = next(_read_tar(files[0], None), (None, None, None))
    names = None
    if label is None:
        names = tuple(sorted({pathlib.Path(file).stem for file in files}))
    numbers = {each: number for number, each in enumerate(names or ())}
    jobs = []
    for file in files:
        given = numbers[pathlib.Path(file).stem] if names else None
        jobs.append(Job(split if names else _split_of(file, split), ("tar", (file, given))))
    return Gathered(name, jobs, names)


def _read_tar(path, label):
    """label: of all examples, None where the members say it."""
    stem = pathlib.Path(path).stem
    with tarfile.open(path) as archive:
        group, known, image = None, label, None
        for member in archive:
            if not member.isreg():
                continue
            folder, _, file = member.name.rpartition("/")
            here, _, kind = file.partition(".")
            if (folder, here) != group:
                if image is not None:
                    yield f"{stem}/{group[1]}", known, image
                group, known, image = (folder, here), label, None
            data = archive.extractfile(member).read()
            kind = "." + kind.rpartition(".")[2].lower()
            if kind in EXTENSIONS:
                image = data
            elif kind == ".cls" and label is None:
                known = int(data)
            elif kind == ".json" and label is None:
                known = json.loads(data).get("label", known)
        if image is not None:
            yield f"{stem}/{group[1]}", known, image


# Parquet, as Hugging Face's data sets have it: image {bytes, path} or bytes, label a number.


def _parquet_names(file):
    metadata = pyarrow.parquet.read_schema(file).metadata or {}
    if b"huggingface" not in metadata:
        return None
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    return tuple(features["label"]["names"]) if "names" in features.get("label", {}) else None


def _read_parquet(path):
    table = pyarrow.parquet.ParquetFile(path)
    missing = {"image", "label"} - set(table.schema_arrow.names)
    if missing:
        raise ValueError(f"{path} has no column {' or '.join(sorted(missing))}: change SRC")
    row = 0
    for batch in table.iter_batches(256, columns=["image", "label"]):
        for image, label in zip(*(batch.column(n).to_pylist() for n in (0, 1)), strict=True):
            data = image["bytes"] if isinstance(image, dict) else image
            yield f"{pathlib.Path(path).stem}/{row}", label, data
            row += 1


READERS = {"indexed": _read_indexed, "tar": _read_tar, "parquet": _read_parquet}
