"""big_vision's and vision_transformer's files: today's names, and every older generation."""

import jax
import numpy as np
import pytest

from vitjax import interop
from vitjax.interop.layout import HALF, Spec

D, M, H, P, C = 16, 24, 2, 4, 5
ENCODER = {"name": "vit", "variant": "mu/4", "width": D, "depth": 2, "mlp": M, "heads": H}
BLOCK = "Transformer/encoderblock_{}/"
ATTENTION = "MultiHeadDotProductAttention_0/"


def model(**settings):
    """A model of 16 x 16 pixels with random weights, as big_vision saves it."""
    hidden = 6 if settings == {} else 0
    encoder = ENCODER | {"resample": "linear"} | settings
    spec = Spec(encoder, classes=C, hidden=hidden, image_size=16, preprocessing=HALF)
    shapes = interop.build(spec).shapes()
    rng = np.random.RandomState(0)
    return spec, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def same(tensors, spec, variables):
    got, arrays = interop.read(tensors)
    assert got.spec.settings() | {"variant": 0} == _explicit(spec.settings()) | {"variant": 0}
    assert (got.spec.classes, got.spec.hidden) == (spec.classes, spec.hidden)
    assert got.spec.image_size == 16 or "pos_embedding" not in tensors
    jax.tree.map(np.testing.assert_array_equal, arrays, variables)


def _explicit(settings):
    return settings | {"heads": H}


def test_the_names_and_shapes_are_big_visions():
    spec, variables = model()
    tensors, files = interop.write(spec, variables, "big_vision")
    assert files == {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    block = {
        **{f"LayerNorm_{i}/{leaf}": (D,) for i in (0, 1) for leaf in ("scale", "bias")},
        **{f"{ATTENTION}{part}/kernel": (D, H, D // H) for part in ("query", "key", "value")},
        **{f"{ATTENTION}{part}/bias": (H, D // H) for part in ("query", "key", "value")},
        f"{ATTENTION}out/kernel": (H, D // H, D),
        f"{ATTENTION}out/bias": (D,),
        "MlpBlock_0/Dense_0/kernel": (D, M),
        "MlpBlock_0/Dense_0/bias": (M,),
        "MlpBlock_0/Dense_1/kernel": (M, D),
        "MlpBlock_0/Dense_1/bias": (D,),
    }
    assert shapes == {
        "embedding/kernel": (P, P, 3, D),
        "embedding/bias": (D,),
        "pos_embedding": (1, 16, D),
        **{BLOCK.format(i) + name: shape for i in (0, 1) for name, shape in block.items()},
        "Transformer/encoder_norm/scale": (D,),
        "Transformer/encoder_norm/bias": (D,),
        "pre_logits/kernel": (D, 6),
        "pre_logits/bias": (6,),
        "head/kernel": (6, C),
        "head/bias": (C,),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pool": "map"},
        {"pool": "cls"},
        {"pool": "cls", "class_position": True},
        {"positions": "sincos"},
    ],
)
def test_what_goes_out_comes_in(settings):
    spec, variables = model(**settings)
    tensors, _ = interop.write(spec, variables, "big_vision")
    same(tensors, spec, variables)


def before_linen(tensors):
    """The numbering of 2020: modules of a block counted together."""
    older = {"LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3"}
    older[ATTENTION[:-1]] = "MultiHeadDotProductAttention_1"
    renamed = {}
    for name, tensor in tensors.items():
        if "encoderblock" in name:
            name = "/".join(older.get(p, p) for p in name.split("/"))
        renamed[name] = tensor
    return renamed


def positions_inside(tensors):
    moved = dict(tensors)
    moved["Transformer/posembed_input/pos_embedding"] = moved.pop("pos_embedding")
    return moved


def scanned(tensors):
    """scan=True: one leading axis of layers."""
    stacked = {name: t for name, t in tensors.items() if "encoderblock" not in name}
    for name in tensors:
        if name.startswith(BLOCK.format(0)):
            leaf = name.removeprefix(BLOCK.format(0))
            layers = [tensors[BLOCK.format(i) + leaf] for i in (0, 1)]
            stacked[f"Transformer/encoderblock/{leaf}"] = np.stack(layers)
    return stacked


def probe_outside(tensors):
    return {name.removeprefix("MAPHead_0/"): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("settings", "age"),
    [
        ({"pool": "cls", "class_position": True}, before_linen),
        ({"pool": "cls", "class_position": True}, positions_inside),
        ({"pool": "map"}, scanned),
        ({"pool": "map"}, probe_outside),
    ],
)
def test_older_generations_are_understood(settings, age):
    spec, variables = model(**settings)
    tensors, _ = interop.write(spec, variables, "big_vision")
    older = age(tensors)
    assert set(older) != set(tensors)
    same(older, spec, variables)


def test_what_big_vision_cannot_say_is_named():
    spec, variables = model(pool="cls", layer_scale=0.1)
    with pytest.raises(ValueError, match=r"no vit with encoder\.layer_scale=0\.1, only"):
        interop.write(spec, variables, "big_vision")


def test_a_wrong_file_is_told_by_name():
    spec, variables = model()
    tensors, _ = interop.write(spec, variables, "big_vision")
    gone = tensors.pop(BLOCK.format(1) + "LayerNorm_1/bias")
    tensors["Transformer/extra"] = gone
    tensors["head/bias"] = np.zeros(7, np.float32)
    with pytest.raises(interop.rules.Mismatch) as error:
        interop.read(tensors)
    assert error.value.differences == {
        "missing": [BLOCK.format(1) + "LayerNorm_1/bias"],
        "unexpected": ["Transformer/extra"],
        "misshapen": ["head/bias (7,) there, (5,) expected"],
    }
