"""Files of tensors by name, as other projects write them: read without ever unpickling, written
whole or not at all."""

import argparse
import contextlib
import json
import os
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from vitjax.interop.beside import RESAMPLE
from vitjax.interop.layout import Tensors

# What a folder of weights may hold, first to last; the index names the shards of larger models.
WHOLE = ("model.safetensors", "model.npz", "pytorch_model.bin")
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# What lies beside the weights and says how they want to be run.
SETTINGS, PREPROCESSOR = "config.json", "preprocessor_config.json"


def read(path) -> Tensors:
    """The tensors of a file or a Hugging Face folder, by name, in the types they are stored in.

    path: .safetensors, .npz, .pth, .pt, .bin (these three through torch's weights-only loader), or
    a folder. "file.npz:img" is one tower of big_vision's two-tower models. Names are those of the
    model: see `clean`, `root_of`. Raises ValueError or OSError with one line.
    """
    file, tower = _split_tower(path)
    if not file.exists():
        raise ValueError(f"there is no file or folder {file}")
    tensors = _read_folder(file) if file.is_dir() else _read_file(file)
    if not tensors:
        raise ValueError(f"{file} holds no tensors")
    return clean(root_of(tensors, tower, file))


def _split_tower(path) -> tuple[Path, str | None]:
    match = re.fullmatch(r"(.+\.npz):(\w+)", str(path))
    return (Path(match[1]), match[2]) if match else (Path(path), None)


def _read_folder(folder: Path) -> Tensors:
    for name in WHOLE:
        if (folder / name).is_file():
            return _read_file(folder / name)
    for name in INDEX:
        if (folder / name).is_file():
            return _read_shards(folder, name)
    raise ValueError(f"{folder} holds no weights: expected one of {', '.join(WHOLE + INDEX)}")


def _read_shards(folder: Path, index: str) -> Tensors:
    try:
        place = dict(_read_json(folder / index)["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / index} says no file for each tensor: no weight_map") from error
    shards = list(dict.fromkeys(map(str, place.values())))
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise ValueError(f"{folder} lacks {', '.join(absent)}, which {index} names")
    tensors = {}
    for name in shards:
        tensors |= _read_file(folder / name)
    lacking = [name for name in place if name not in tensors]
    if lacking:
        raise ValueError(f"{folder} lacks tensors that {index} names: {', '.join(lacking)}")
    return tensors


def _read_file(file: Path) -> Tensors:
    if file.suffix not in READERS:
        raise ValueError(
            f"{file} is of a kind that is not read; expected {', '.join(READERS)} or a folder "
            "(nothing is ever unpickled)"
        )
    try:
        return READERS[file.suffix](file)
    except OSError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read: {_line(error)}") from error


UNREADABLE = (
    safetensors.SafetensorError,
    *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, RuntimeError),
    *(TypeError, AttributeError),  # types of numbers that NumPy has not, as float8
)


def _line(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(plain.split())[:200]


def _read_npz(file: Path) -> Tensors:
    """Old files hold bfloat16 as 2-byte void: NumPy has no name for it."""
    with zipfile.ZipFile(file):  # np.load takes other files too
        pass
    with np.load(file, allow_pickle=False) as arrays:
        return {
            name: array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
            for name, array in arrays.items()
        }


def _read_torch(file: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise OSError(
            f"{file} is read by torch, which is not installed: pip install 'vitjax[torch]', or "
            "save the weights as .safetensors"
        ) from None
    # Training scripts store their arguments beside the weights; a Namespace runs nothing.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own
            raise ValueError(f"torch's weights-only loader: {_line(error)}") from error

    def leaves(node, path):
        if isinstance(node, torch.Tensor):
            node = node.detach()
            exact = node.float() if node.dtype == torch.bfloat16 else node
            yield path, exact.contiguous().numpy()
        elif isinstance(node, Mapping):
            for key, child in node.items():
                yield from leaves(child, f"{path}.{key}" if path else str(key))

    return dict(leaves(content, ""))


READERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": safetensors.numpy.load_file,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}

# Wrappers that say nothing: of data-parallel training, FSDP, rematerialisation, torch.compile.
WRAPPED = r"^module\.|(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\."
# Places in a training checkpoint where the weights are; beside them lie optimizer, heads, counters.
PLACES = ("state_dict", "model_state_dict", "model", "teacher", "student", "backbone")


def clean(tensors: Tensors) -> Tensors:
    """Names of the model alone, of tensors from a training checkpoint ("/"-names stay as they are).

    Nested checkpoints have "."-joined names. A teacher is taken before a student. DINOv2's chunked
    blocks.<chunk>.<i> become blocks.<i> (i counts through all chunks).
    """
    before: Tensors = {}
    while list(tensors) != list(before):
        before = tensors
        tensors = {re.sub(WRAPPED, "", name): tensor for name, tensor in tensors.items()}
        for place in PLACES:
            tensors = _inside(tensors, place)
    chunked = r"^blocks\.\d+\.(\d+)\."
    renamed = {re.sub(chunked, r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def _inside(tensors: Tensors, place: str) -> Tensors:
    """What lies in a place, where there is one."""
    prefix = f"{place}."
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not inside:
        return tensors
    others = {name.partition(".")[0]: None for name in tensors if not name.startswith(prefix)}
    if place == "backbone" and "classifier" in others:
        raise ValueError(
            "a backbone with a classifier beside it is torchvision's segmentation: its last stages "
            "are dilated, and no encoder here has that"
        )
    if others:
        level = logging.WARNING if "student" in others else logging.INFO
        logging.log(level, "%s is taken, not %s", place, ", ".join(others))
    return inside


def root_of(tensors: Tensors, tower: str | None, file: Path) -> Tensors:
    """The parameters in a tree of big_vision or vision_transformer: all of it, `params`, or the
    `opt/target` of their first checkpoints; of two towers, the one named."""
    for root in ("params/", "opt/target/"):
        inside = {n.removeprefix(root): t for n, t in tensors.items() if n.startswith(root)}
        if inside:
            tensors = inside
            break
    towers = {name.partition("/")[0] for name in tensors if "/" in name}
    if tower is None:
        if {"img", "txt"} <= towers or {"img", "llm"} <= towers:
            raise ValueError(
                f"{file} holds two towers, {', '.join(sorted(towers))}: say {file}:img"
            )
        return tensors
    if tower not in towers:
        raise ValueError(f"{file} has no tower {tower!r}, only {', '.join(sorted(towers))}")
    prefix = f"{tower}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


DESCRIBES = {"architecture", "architectures", "model_type"}  # keys of timm and Hugging Face


def settings_beside(path) -> tuple[dict, dict]:
    """(config.json, preprocessor_config.json) of a folder of weights, or beside a file of them; {}
    where there is none. Beside a file another project's config.json may lie: it is left alone."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    found = [folder / name for name in (SETTINGS, PREPROCESSOR)]
    config, preprocessor = (_read_json(file) if file.is_file() else {} for file in found)
    if not path.is_dir() and not DESCRIBES & config.keys():
        return {}, {}
    return config, preprocessor


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {_line(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} holds no JSON object")
    return value


KERNELS = {number: name for name, number in RESAMPLE.items()}
# What a preprocessor_config.json means where it leaves these out.
SILENT = {"do_normalize": True, "do_center_crop": False, "resample": None, "size": None}


def preprocessing_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """What the files beside the weights say of `Preprocessing`, by its fields: Hugging Face's
    preprocessor_config.json, or the pretrained_cfg in timm's config.json. {} where they are silent.
    Raises ValueError of one line for values that mean nothing.
    """
    try:
        found = _preprocessing(config, preprocessor)
        for key in ("mean", "std"):
            if key in found and len([float(value) for value in found[key]]) != 3:
                raise ValueError(f"{key} {found[key]}: expected three numbers")
        if "crop" in found and not 0 < float(found["crop"]) <= 1:
            raise ValueError(f"crop {found['crop']}: expected a share up to 1")
    except (TypeError, ValueError, AttributeError, StopIteration, ZeroDivisionError) as error:
        raise ValueError(
            f"{SETTINGS} or {PREPROCESSOR} beside the weights says nothing usable of the images: "
            f"{_line(error) or type(error).__name__}"
        ) from error
    return found


def _preprocessing(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    if "pretrained_cfg" in config:
        given = config["pretrained_cfg"]
        names = {"mean": "mean", "std": "std", "crop_pct": "crop", "interpolation": "resize"}
        found = {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    elif preprocessor:
        given = SILENT | preprocessor
        normalised = given["do_normalize"] and "image_mean" in given and "image_std" in given
        found = {} if given["size"] is None else {"crop": _crop(given)}
        if given["resample"] in KERNELS:
            found["resize"] = KERNELS[given["resample"]]
        if normalised:
            found |= {"mean": given["image_mean"], "std": given["image_std"]}
        elif not given["do_normalize"]:
            found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    else:
        return {}
    if "resize" in found and found["resize"] not in RESAMPLE:
        del found["resize"]  # a kernel we have not, as timm's "random"
    return found | {key: tuple(found[key]) for key in ("mean", "std") if key in found}


def image_size_of(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> int | None:
    """Pixels per side of the images that the files beside the weights ask for; None where they are
    silent."""
    if (
        isinstance(config.get("pretrained_cfg"), Mapping)
        and "input_size" in config["pretrained_cfg"]
    ):
        size = config["pretrained_cfg"]["input_size"]
        if not isinstance(size, list) or not size or not isinstance(size[-1], int):
            raise ValueError(
                f"{SETTINGS} beside the weights says nothing usable of the images: "
                f"input_size {size}"
            )
        return size[-1]
    given = SILENT | preprocessor
    key = "crop_size" if given["do_center_crop"] and "crop_size" in given else "size"
    return None if given[key] is None else _side(given[key])


def _crop(given: Mapping[str, Any]) -> float:
    """The share of the shorter side that is kept; 1 where the whole image is squeezed in."""
    side = _side(given["size"])
    if "crop_pct" in given:  # ConvNeXt's processor: from 384 pixels on it does not crop
        return float(given["crop_pct"]) if side < 384 else 1.0
    if given["do_center_crop"] and "crop_size" in given:
        return min(1.0, _side(given["crop_size"]) / side)
    return 1.0


def _side(size: int | Mapping[str, int]) -> int:
    """224, {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    return size if isinstance(size, int) else next(iter(size.values()))


def write(folder: Path, tensors: Tensors, beside: Mapping[str, dict], archive: bool) -> None:
    """Weights and the JSON files beside them. archive: .npz, as big_vision reads it, instead of
    .safetensors."""
    if archive:
        np.savez(folder / "model.npz", **tensors)
    else:
        # transformers reads only files that say so.
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def require_new(folder) -> None:
    """Raise ValueError where something stands that would be written over."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out={str(folder)!r} is not empty: give a new folder")


@contextlib.contextmanager
def whole(folder) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when all went well and is gone when not."""
    require_new(folder)
    folder = Path(folder).absolute()
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
