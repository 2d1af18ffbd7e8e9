"""Vision Transformers as big_vision and vision_transformer save them, in every generation."""

import math
import re
from collections.abc import Mapping

import numpy as np

from vitjax.interop import bit
from vitjax.interop.layout import HALF, Layout, Spec, Tensors, blocks_of, require
from vitjax.interop.rules import SAME, Form, Rule, Shape
from vitjax.interop.vit_names import CLASS_AND_POSITIONS, POSITIONS
from vitjax.interop.vit_sizes import encoder_of, shape_of, stem_of
from vitjax.models.vit import has_class

BLOCK = "Transformer/encoderblock_{}/"
ATTENTION = "MultiHeadDotProductAttention_0"
# Before Linen, modules of a block were numbered together; now each class counts for itself.
RENUMBERED = {
    "MultiHeadDotProductAttention_1": ATTENTION,
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


def recognise(shapes: Mapping[str, Shape]) -> Spec | None:
    query = f"{BLOCK.format(0)}{ATTENTION}/query/kernel"
    mlp = f"{BLOCK.format(0)}MlpBlock_0/Dense_0/kernel"
    if any(name not in shapes for name in ("embedding/kernel", query, mlp)):
        return None
    width, heads, _ = shapes[query]
    depth = blocks_of(shapes, BLOCK + "LayerNorm_0/scale")
    hidden = shapes[mlp][1]
    patch = shapes["embedding/kernel"][0]
    stem = _stem(shapes)
    settings = {
        "pool": "cls" if "cls" in shapes else "map" if "MAPHead_0/probe" in shapes else "gap",
        "positions": "learned" if "pos_embedding" in shapes else "sincos",
        "activation": "gelu_tanh",
        "resample": "linear",
    }
    size = 224
    if "pos_embedding" in shapes:
        rows = shapes["pos_embedding"][1]
        if has_class(settings["pool"]) and math.isqrt(rows) ** 2 != rows:
            settings["class_position"], rows = True, rows - 1
        size = math.isqrt(rows) * (stem.patch if stem else patch)
    encoder = encoder_of(width, depth, hidden, stem.patch if stem else patch, stem, settings)
    if shape_of(Spec(encoder)).heads != heads:
        encoder["heads"] = heads
    classes = shapes["head/kernel"][1] if "head/kernel" in shapes else 0
    before = shapes["pre_logits/kernel"][1] if "pre_logits/kernel" in shapes else 0
    return Spec(encoder, classes, before, size, HALF)


def _stem(shapes: Mapping[str, Shape]):
    blocks, stage = [], 1
    while f"block{stage}/unit1/conv1/kernel" in shapes:
        units = 1
        while f"block{stage}/unit{units + 1}/conv1/kernel" in shapes:
            units += 1
        blocks.append(units)
        stage += 1
    return stem_of(tuple(blocks)) if blocks else None


def rules(spec: Spec) -> list[Rule]:
    require(
        spec,
        "big_vision",
        pool=("gap", "cls", "map"),
        positions=("learned", "sincos"),
        activation=("gelu_tanh",),
        biases=("all",),
        layer_scale=(None,),
        qk_norm=(False,),
        norm_eps=(1e-6, 1e-12),
        registers=(0,),
        prefix_norm=(False,),
        local_norm_below=(0,),
    )
    settings, shape = spec.settings(), shape_of(spec)
    found = [
        *layer("encoder/embedding", "embedding"),
        *layer("encoder/norm", "Transformer/encoder_norm", "scale"),
    ]
    if shape.stem is not None:
        require(spec, "big_vision", stem_standardise=("deviation",))
        found += bit.postact_rules("encoder/stem", "", shape.stem, "big_vision")
    if has_class(settings["pool"]):
        found.append(Rule("encoder/cls", "cls", SAME))
    if settings["mask_token"]:
        found.append(Rule("encoder/mask_token", (), SAME))
    table = "encoder/position_embedding"
    if settings["class_position"]:
        both = ("encoder/class_position", table)
        found.append(Rule(both, "pos_embedding", CLASS_AND_POSITIONS))
    elif settings["positions"] == "learned":
        found.append(Rule(table, "pos_embedding", POSITIONS))
    for rule in _block("encoder/blocks", ("norm1", "norm2")):
        names = tuple(BLOCK.format(i) + rule.theirs for i in range(shape.depth))
        found.append(rule._replace(theirs=names))
    if settings["pool"] == "map":
        found.append(Rule("encoder/attention_pool/probe", "MAPHead_0/probe", SAME))
        for rule in _block("encoder/attention_pool", ("norm",)):
            found.append(rule._replace(theirs="MAPHead_0/" + rule.theirs))
    if spec.hidden:
        found += layer("head/pre_logits", "pre_logits")
    return found + (layer("head/logits", "head") if spec.classes else [])


def layer(ours: str, theirs: str, weight: str = "kernel", form: Form = SAME) -> list[Rule]:
    """The same names at the end, the same shapes: both sides are Flax."""
    return [Rule(f"{ours}/{leaf}", f"{theirs}/{leaf}", form) for leaf in (weight, "bias")]


def _block(ours: str, norms: tuple[str, ...]) -> list[Rule]:
    found = []
    for place, norm in enumerate(norms):
        found += layer(f"{ours}/{norm}", f"LayerNorm_{place}", "scale")
    for part in ("query", "key", "value", "out"):
        found += layer(f"{ours}/attention/{part}", f"{ATTENTION}/{part}")
    found += layer(f"{ours}/mlp/up", "MlpBlock_0/Dense_0")
    return found + layer(f"{ours}/mlp/down", "MlpBlock_0/Dense_1")


def prepare(tensors: Tensors) -> Tensors:
    """Older generations in the newest one's names."""
    if "embedding/kernel" not in tensors:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        if name in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
            name = "pos_embedding"
        elif "probe" in tensors and re.match(r"probe$|(Multi|Mlp|LayerNorm)", name):
            name = f"MAPHead_0/{name}"
        elif "encoderblock" in name:
            name = "/".join(RENUMBERED.get(p, p) for p in name.split("/"))
        if re.search(r"gn_\w+/|/gn\d/", name):  # stored as [1, 1, 1, C] by vision_transformer
            tensor = tensor.reshape(-1)
        if name.startswith("Transformer/encoderblock/"):  # a scan: one leading axis of layers
            leaf = name.removeprefix("Transformer/encoderblock/")
            renamed |= {BLOCK.format(i) + leaf: layer for i, layer in enumerate(np.asarray(tensor))}
        else:
            renamed[name] = tensor
    return renamed


LAYOUT = {"vit": Layout(recognise, rules, prepare, files=lambda spec: {})}
