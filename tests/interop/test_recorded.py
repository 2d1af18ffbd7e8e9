"""Ours beside recorded outputs of models nobody here wrote, see record.py: parity without torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import close, drawn, images, ours

from vitjax import interop

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.npz"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_outputs_are_those_recorded(file):
    with np.load(file) as content:
        arrays = dict(content)
    about = json.loads(str(arrays.pop("about")))
    tensors = drawn({name: tuple(shape) for name, shape in about["shapes"].items()})
    model, variables = interop.read(tensors, **about["encoder"])
    x = images(about["size"])
    logits, features = ours(model, variables, x, layers=model.encoder.layers)
    last = arrays.pop("last")
    got = features.tokens if logits is None else logits
    close(np.asarray(got).reshape(last.shape), last, "last")
    # A transformer's recorded maps are its blocks, a ConvNet's its stages, from the first one on.
    assert len(arrays) >= len(model.encoder.layers) - 1
    for name, layer in zip(sorted(arrays), model.encoder.layers, strict=False):
        close(features.layers[layer], arrays[name], layer)


def test_something_was_recorded():
    assert len(RECORDED) >= 12
