"""Folders of images, and tar archives of them."""

import functools
import gzip
import hashlib
import lzma
import os
import pathlib
import posixpath
import shutil
import tarfile
import tempfile
import threading
import weakref
import zlib

import numpy as np

from vitjax.data.info import Info

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
COMPRESSIONS = {".gz": gzip.open, ".tgz": gzip.open, ".xz": lzma.open, ".txz": lzma.open}


class FolderSource:
    """One split of a folder of images, or of a tar archive of it; images stay encoded.

    path: a folder `split/class/**/image.jpg`, or `class/image.jpg` (its only split is "all"), or
    images without folders (split "all", class "unlabelled"); or a .tar, .tar.gz or .tar.xz of one
    of these. A compressed archive is unpacked to a plain one, once, in $VITJAX_CACHE or
    ~/.cache/vitjax. Labels number the sorted names of the classes of all splits together.
    """

    def __init__(self, split, *, path, licence="unknown"):
        path = os.fspath(path)
        self._files = _open(path)
        images, folders = self._files.listing()
        depth = _depth(path, images)
        splits = sorted({name.split("/")[0] for name in images}) if depth == 2 else ["all"]
        if split not in splits:
            raise ValueError(
                f"{path} has no split {split!r}, only {', '.join(splits)}: change the split named "
                f"in data, or data.path"
            )
        prefix = f"{split}/" if depth == 2 else ""
        self._names = sorted(name for name in images if name.startswith(prefix))
        self._places = [images[name] for name in self._names]
        classes = [_class(name, depth) for name in self._names]
        _refuse_empty_classes(path, prefix, depth, folders, set(classes))
        names = tuple(sorted({_class(name, depth) for name in images}))
        numbers = {name: number for number, name in enumerate(names)}
        self.labels = np.array([numbers[name] for name in classes], np.int32)
        self.lacking = tuple(name for name in names if name not in set(classes))
        self.info = Info(pathlib.Path(path).name.split(".")[0], names, licence)

    def __len__(self):
        return len(self._names)

    def __getitem__(self, index):
        image = self._files.read(self._places[index])
        return {"image": image, "label": int(self.labels[index])}

    def key(self, index):
        return self._names[index]


def _depth(path, images):
    """2 for split/class/image (or deeper), 1 for class/image, 0 for images alone."""
    if not images:
        raise ValueError(
            f"no images in {path} (no file ends in {', '.join(EXTENSIONS)}): change data.path"
        )
    examples = {min(name.count("/"), 2): name for name in sorted(images, reverse=True)}
    if len(examples) > 1:
        raise ValueError(
            f"{path} mixes layouts, {' and '.join(examples[key] for key in sorted(examples))}: "
            f"expected split/class/image, class/image, or images alone in data.path"
        )
    return min(examples)


def _class(name, depth):
    return name.split("/")[depth - 1] if depth else "unlabelled"


def _refuse_empty_classes(path, prefix, depth, folders, filled):
    empty = sorted(
        name
        for name in folders
        if name.startswith(prefix)
        and name.count("/") == depth - 1
        and name.split("/")[-1] not in filled
    )
    if empty:
        raise ValueError(
            f"no images in {', '.join(empty[:5])} of {path} ({len(empty)} empty classes): remove "
            f"these folders or change data.path"
        )


def _open(path):
    if os.path.isdir(path):
        return _Folder(path)
    if not os.path.exists(path):
        raise ValueError(f"no file or folder {path}: change data.path")
    suffix = pathlib.Path(path).suffix
    if suffix in COMPRESSIONS:
        path = _unpacked(path, COMPRESSIONS[suffix])
    elif suffix != ".tar":
        raise ValueError(f"data.path is a folder, .tar, .tar.gz or .tar.xz, got {path}")
    return _Tar(path)


def _is_image(name):
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and posixpath.splitext(name)[1].lower() in EXTENSIONS


def _is_below(parent, name):
    """Whether to look into a folder: a hidden one not, nor a link to one that it is in."""
    path = os.path.join(parent, name)
    if name.startswith("."):
        return False
    if not os.path.islink(path):
        return True
    real = os.path.realpath(path)
    return os.path.commonpath([real, os.path.realpath(parent)]) != real


class _Folder:
    """Files by their paths."""

    def __init__(self, path):
        self._path = path

    def listing(self):
        """Returns ({relative name: place to read it from}, [relative names of folders])."""
        images, folders = {}, []
        for parent, below, files in os.walk(self._path, followlinks=True):
            below[:] = [name for name in below if _is_below(parent, name)]
            start = os.path.relpath(parent, self._path).replace(os.sep, "/")
            prefix = "" if start == "." else f"{start}/"
            folders += [prefix + name for name in below]
            images |= {
                prefix + name: os.path.join(parent, name) for name in files if _is_image(name)
            }
        return images, folders

    def read(self, place):
        with open(place, "rb") as file:
            return file.read()


class _Tar:
    """Members of a plain tar archive by their offsets: any number of threads, one open file."""

    def __init__(self, path):
        self._path = path
        self._lock = threading.Lock()
        self._file = None

    def __getstate__(self):
        return self._path

    def __setstate__(self, path):
        self.__init__(path)

    def listing(self):
        """Returns ({member name: (offset, bytes)}, [names of folders])."""
        stat = os.stat(self._path)
        return _members(self._path, stat.st_size, stat.st_mtime_ns)

    def read(self, place):
        offset, size = place
        data = os.pread(self._descriptor(), size, offset)
        if len(data) < size:
            raise OSError(f"{self._path} ends within a member: it changed since it was indexed")
        return data

    def _descriptor(self):
        with self._lock:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._file)
        return self._file


@functools.lru_cache(maxsize=1)  # the splits of one archive are opened one after the other
def _members(path, size, mtime):
    files, folders, links = {}, [], {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep a kilobyte for each
                name = posixpath.normpath(member.name)
                if member.isdir() and name != ".":
                    folders.append(name)
                elif member.isreg():
                    files[name] = (member.offset_data, member.size)
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
                elif member.issym():
                    target = posixpath.join(posixpath.dirname(name), member.linkname)
                    links[name] = posixpath.normpath(target)
            _require_end(path, archive.offset)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole tar archive ({error}): change data.path") from error
    images = {name: place for name, place in files.items() if _is_image(name)}
    for name in filter(_is_image, links):
        target = _follow(links, name)
        if target not in files:
            raise ValueError(f"{path} holds the link {name} to {target}, which is no file in it")
        images[name] = files[target]
    return images, folders


def _require_end(path, offset):
    """tarfile takes a damaged header for the end, which is a block of zeros."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no file and no end mark at byte {offset}: cut or damaged")


def _follow(links, name):
    """Where a chain of links ends; a circle ends anywhere in it."""
    seen = set()
    while name in links and name not in seen:
        seen.add(name)
        name = links[name]
    return name


def _unpacked(path, decompress):
    """The plain tar of a compressed one, in the cache; named by its path, size and age."""
    cache = pathlib.Path(os.environ.get("VITJAX_CACHE", "~/.cache/vitjax")).expanduser()
    stat = os.stat(path)
    identity = f"{os.path.realpath(path)}|{stat.st_size}|{stat.st_mtime_ns}"
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    plain = cache / f"{pathlib.Path(path).name.split('.')[0]}-{digest}.tar"
    if plain.exists():
        return os.fspath(plain)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            aside = pathlib.Path(folder, plain.name)
            with open(aside, "wb") as file, decompress(path) as packed:
                shutil.copyfileobj(packed, file, 1 << 20)
            os.replace(aside, plain)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}): change data.path") from error
    return os.fspath(plain)
