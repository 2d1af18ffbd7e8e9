"""Weights of other projects, in and out: known by names and shapes, turned by invertible rules."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from vitjax import checkpoint, models
from vitjax.interop import (
    bit,
    classic,
    coatnet,
    convit,
    convnext,
    files,
    mixer,
    resnet,
    rules,
    runs,
    vit,
)
from vitjax.interop.layout import Layout, Spec, Tensors
from vitjax.interop.model import Model, build, flat_shapes
from vitjax.lookup import lookup

# The first word is what --layout and --to take.
PROJECTS = ("timm", "torchvision", "huggingface", "dinov2", "dinov3", "big_vision")
FAMILIES = (vit, resnet, bit, convnext, coatnet, convit, mixer, classic)
# project -> family (encoder.name, with a suffix where a project has several ways to name one) ->
# how its tensors are named.
LAYOUTS: dict[str, dict[str, Layout]] = {project: {} for project in PROJECTS}
for module in FAMILIES:
    for project, tables in module.LAYOUTS.items():
        LAYOUTS[project] |= tables


def recognise(tensors: Tensors, layout: str | None = None) -> tuple[str, str, Spec, Tensors]:
    """(layout, family, spec, the tensors prepared) of a file, from names and shapes alone.

    layout: where it is known. Raises ValueError with one line: nothing fits, or more than one does.
    """
    if layout is not None:
        lookup(LAYOUTS, layout, "layout")
    found = []
    for name in LAYOUTS if layout is None else [layout]:
        for family, table in LAYOUTS[name].items():
            prepared = table.prepare(dict(tensors))
            shapes = {key: tuple(tensor.shape) for key, tensor in prepared.items()}
            try:
                spec = table.recognise(shapes)
            except IndexError as error:
                raise ValueError(
                    f"a tensor has fewer dimensions than layout {name} gives it ({family}): no "
                    "such file is known"
                ) from error
            if spec is not None:
                found.append((name, family, spec, prepared))
    if not found:
        first = ", ".join(list(tensors)[:4])
        where = "any layout" if layout is None else f"layout {layout}"
        raise ValueError(
            f"{len(tensors)} tensors ({first}, ...) are of no encoder that {where} has; layouts: "
            f"{', '.join(LAYOUTS)}"
        )
    if len(found) > 1:
        names = " or ".join(f"--layout {name}" for name, *_ in found)
        raise ValueError(f"the names and shapes fit more than one layout: say {names}")
    return found[0]


class Loaded(NamedTuple):
    """Weights, and where they came from. layout: "vitjax" for a run of ours. past: names of tensors
    that no encoder here needs."""

    model: Model
    variables: dict[str, Any]
    layout: str
    past: tuple[str, ...]


def load(path, layout: str | None = None, **encoder) -> tuple[Model, dict[str, Any]]:
    """(encoder with head, variables) of a file of weights, a Hugging Face folder or a run of ours.

    path: see `files.read`; a run's folder, or checkpoints/STEP in it, gives what it evaluates (its
    averaged weights, where it kept them). layout: a key of LAYOUTS, where names and shapes fit more
    than one. encoder: settings that the file cannot say. Raises rules.Mismatch naming all tensors
    that are missing, unexpected or misshapen, and ValueError or OSError of one line.
    """
    return open_weights(path, layout, **encoder)[:2]


def open_weights(path, layout: str | None = None, **encoder) -> Loaded:
    """`load`, and what else there is to say."""
    if runs.is_run(path):
        if layout is not None or encoder:
            raise ValueError(f"{path} is a run of ours: its layout and encoder are in its config")
        return Loaded(*runs.read(path), "vitjax", ())
    found = recognise(files.read(path), layout)
    config, preprocessor = files.settings_beside(path)
    loaded = _fit(*found, encoder, config, files.preprocessing_of(config, preprocessor))
    return loaded._replace(model=_sized(loaded.model, files.image_size_of(config, preprocessor)))


def _sized(model: Model, size: int | None) -> Model:
    """The model for the images that the files beside it speak of, if its weights are of no size."""
    if size in (None, model.spec.image_size):
        return model
    moved = build(dataclasses.replace(model.spec, image_size=size))
    try:
        return moved if flat_shapes(moved) == flat_shapes(model) else model
    except ValueError:  # a size that this encoder cannot take
        return model


def read(tensors: Tensors, layout: str | None = None, **encoder) -> tuple[Model, dict[str, Any]]:
    """Tensors by name -> (model, variables). See `load`."""
    return _fit(*recognise(tensors, layout), encoder, {}, {})[:2]


def _fit(layout, family, spec, tensors, encoder, config, preprocessing) -> Loaded:
    """The tensors of a file that was recognised, in the model that it and its settings describe."""
    table = LAYOUTS[layout][family]
    if config:
        try:
            spec = table.configure(spec, config)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"config.json beside the weights has a value of the wrong kind: {error!r}"
            ) from error
    known = inspect.signature(models.ENCODERS[spec.encoder["name"]]).parameters
    for key in encoder:
        lookup(known, key, f"a setting of encoder.name {spec.encoder['name']}")
    spec = dataclasses.replace(
        spec,
        encoder=dict(spec.encoder) | encoder,
        preprocessing=dataclasses.replace(spec.preprocessing, **preprocessing),
    )
    if "heads" in spec.encoder and spec.encoder["heads"] is None:
        raise ValueError(
            "no tensor tells the number of attention heads, and the width is of no published "
            "model: say --set encoder.heads=N (in Python heads=N)"
        )
    past = tuple(name for name in tensors if re.search(table.ignored, name))
    if past:
        logging.info("%d tensors are not needed: %s", len(past), ", ".join(past))
    kept = {name: tensor for name, tensor in tensors.items() if name not in past}
    model = build(spec)
    arrays = rules.read(table.rules(spec), kept, flat_shapes(model))
    tree = {"encoder": {}, "head": {}, "stats": {}} | checkpoint.unflatten(arrays)
    return Loaded(model, tree, layout, past)


def write(spec: Spec, variables: Mapping[str, Any], layout: str) -> tuple[Tensors, dict[str, dict]]:
    """(tensors by name, {file: JSON} to lie beside them) of a model in a layout. Raises ValueError
    naming what the layout cannot say."""
    for family, table in lookup(LAYOUTS, layout, "--to").items():
        if table.files is None or family.partition(":")[0] != spec.encoder["name"]:
            continue
        beside = table.files(spec)
        arrays = {
            path: np.asarray(leaf, np.float32)
            for path, leaf in checkpoint.flat(jax.device_get(dict(variables))).items()
        }
        return rules.write(table.rules(spec), arrays), beside
    raise ValueError(f"--to {layout} has no names for encoder {spec.encoder['name']!r}")


def save(spec: Spec, variables: Mapping[str, Any], layout: str, folder) -> None:
    """`write` to a new folder: model.safetensors (big_vision: model.npz) and the JSON files."""
    tensors, beside = write(spec, variables, layout)
    with files.whole(folder) as draft:
        files.write(draft, tensors, beside, archive=layout == "big_vision")
