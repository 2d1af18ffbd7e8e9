"""Other projects' weights, in and out: recognised by names and shapes, turned by invertible rules."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from vitjax import checkpoint
from vitjax.interop import bit, coatnet, convnext, mixer, resnet, rules, vit
from vitjax.interop.layout import Layout, Spec, Tensors
from vitjax.interop.model import Model, build, flat_shapes
from vitjax.lookup import lookup

# The first word is what --layout and --to take.
PROJECTS = ("timm", "torchvision", "huggingface", "dinov2", "dinov3", "big_vision")
FAMILIES = (vit, resnet, bit, convnext, coatnet, mixer)
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
            spec = table.recognise(shapes)
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


def read(tensors: Tensors, layout: str | None = None, **changes) -> tuple[Model, dict[str, Any]]:
    """Tensors by name -> (model, variables). See `load`."""
    layout, family, spec, tensors = recognise(tensors, layout)
    table = LAYOUTS[layout][family]
    past = [name for name in tensors if re.search(table.ignored, name)]
    if past:
        logging.info("%d tensors are not needed: %s", len(past), ", ".join(past))
    kept = {name: tensor for name, tensor in tensors.items() if name not in past}
    model = build(spec)
    arrays = rules.read(table.rules(spec), kept, flat_shapes(model))
    tree = {"encoder": {}, "head": {}, "stats": {}} | checkpoint.unflatten(arrays)
    return model, tree


def write(spec: Spec, variables: Mapping[str, Any], layout: str) -> tuple[Tensors, dict[str, dict]]:
    """(tensors by name, {file: JSON} to lie beside them) of a model in a layout. Raises ValueError
    naming what the layout cannot say."""
    for family, table in lookup(LAYOUTS, layout, "--to").items():
        if table.files is None or family.partition(":")[0] != spec.encoder["name"]:
            continue
        arrays = {
            path: np.asarray(leaf, np.float32)
            for path, leaf in checkpoint.flat(jax.device_get(dict(variables))).items()
        }
        return rules.write(table.rules(spec), arrays), table.files(spec)
    raise ValueError(f"--to {layout} has no names for encoder {spec.encoder['name']!r}")
