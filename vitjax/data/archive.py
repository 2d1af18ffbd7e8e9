"""Files of a folder or of a tar archive, by name."""

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

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
COMPRESSIONS = {".gz": gzip.open, ".tgz": gzip.open, ".xz": lzma.open, ".txz": lzma.open}


def open_files(path, key="data.path"):
    """The files of a folder or archive: their `listing`, and `read` of a place in it.

    key: the config key that named the path, for messages.
    """
    if os.path.isdir(path):
        return _Folder(path)
    if not os.path.exists(path):
        raise ValueError(f"no file or folder {path}: change {key}")
    suffix = pathlib.Path(path).suffix
    if suffix in COMPRESSIONS:
        path = _unpacked(path, COMPRESSIONS[suffix])
    elif suffix != ".tar":
        raise ValueError(f"{key} is a folder, .tar, .tar.gz or .tar.xz, got {path}")
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
