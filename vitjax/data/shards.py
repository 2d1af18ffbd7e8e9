"""Data sets that `vitjax prepare` wrote: ArrayRecord shards, and a manifest that knows them.

A folder holds manifest.json, <split>.labels.npy (int32, in order) and the shards. A record is
HEADER, the key as UTF-8, and the image: the bytes of an image file, or raw pixels where the header
has a height and a width.
"""

import dataclasses
import hashlib
import json
import pathlib
import struct

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from vitjax.data.info import Info

FORMAT = 1
HEADER = struct.Struct("<iHHH")  # label, bytes of the key, height and width of raw pixels
# One record a group, so that any can be read alone; images are compressed already.
OPTIONS = "group_size:1,uncompressed"


def pack(key, label, image):
    """One record. image: bytes of an image file, or uint8 [H, W, 3]."""
    name = key.encode()[: 2**16 - 1]
    raw = isinstance(image, np.ndarray)
    height, width = image.shape[:2] if raw else (0, 0)
    body = image.tobytes() if raw else image
    return HEADER.pack(label, len(name), height, width) + name + body


def unpack(record):
    """(key, label, image) of a record; raw pixels as uint8 [H, W, 3], not to be written to."""
    label, length, height, width = HEADER.unpack_from(record)
    start = HEADER.size + length
    key = record[HEADER.size : start].decode()
    if height:
        pixels = np.frombuffer(record, np.uint8, height * width * 3, start)
        return key, label, pixels.reshape(height, width, 3)
    return key, label, record[start:]


def write(path, records):
    """Writes a shard whole or not at all. Returns its number of bytes and its checksum."""
    aside = path.with_name(path.name + ".part")
    writer = array_record_module.ArrayRecordWriter(str(aside), OPTIONS)
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()
    size, digest = aside.stat().st_size, checksum(aside)
    aside.rename(path)
    return size, digest


def checksum(path):
    """BLAKE2b of a file, 128 bits in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_manifest(folder):
    """The manifest of a prepared data set. Raises ValueError where there is none to be read."""
    file = pathlib.Path(folder, "manifest.json")
    try:
        manifest = json.loads(file.read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no prepared data set ({type(error).__name__}: {error}): run `vitjax "
            f"prepare SRC --out {folder}`, or change data.path"
        ) from error
    return manifest


def verify(folder):
    """Names of the shards whose bytes are not those of the manifest."""
    manifest = read_manifest(folder)
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    return [
        shard["file"]
        for shard in shards
        if not pathlib.Path(folder, shard["file"]).exists()
        or checksum(pathlib.Path(folder, shard["file"])) != shard["blake2b"]
    ]


@dataclasses.dataclass(frozen=True)
class Part:
    """A shard in the words of array_record's FileInstruction: its counts need not be read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class ShardSource:
    """One split of a data set prepared by `vitjax prepare`; images stay as they were stored.

    path: its folder. Nothing is read at the start but the manifest, whatever the size of the data.
    """

    annotations = ()

    def __init__(self, split, *, path):
        manifest = read_manifest(path)
        if split not in manifest["splits"]:
            raise ValueError(
                f"{path} has no split {split!r}, only {', '.join(sorted(manifest['splits']))}: "
                "change the split named in data, or data.path"
            )
        self._labels = pathlib.Path(path, f"{split}.labels.npy")
        known = manifest["splits"][split]
        counts = [shard["examples"] for shard in known["shards"]]
        files = [
            Part(str(pathlib.Path(path, shard["file"])), 0, shard["examples"], shard["examples"])
            for shard in known["shards"]
            if shard["examples"]
        ]
        self._records = array_record_data_source.ArrayRecordDataSource(files)
        self._count = sum(counts)
        names = tuple(manifest["classes"])
        present = known["class_counts"]
        self.lacking = tuple(name for name, count in zip(names, present, strict=True) if not count)
        self.info = Info(manifest["name"], names, manifest["licence"])

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        """Several examples by one call of the reader: half the cost where images are small."""
        unpacked = [unpack(record) for record in self._records.__getitems__(indices)]
        return [{"image": image, "label": label} for _, label, image in unpacked]

    def key(self, index):
        return unpack(self._records.__getitems__([index])[0])[0]

    @property
    def labels(self):
        """int32 [len(self)], mapped from the disk."""
        return np.load(self._labels, mmap_mode="r")
