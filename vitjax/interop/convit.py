"""ConViT as timm names it: also the names of the paper's own files."""

import math

import numpy as np

from vitjax.interop.beside import timm_files
from vitjax.interop.layout import IMAGENET, Layout, Spec, blocks_of, require
from vitjax.interop.rules import (
    CONV,
    LINEAR,
    LINEAR_OUT,
    QKV,
    VECTOR,
    Form,
    Rule,
    copy_as,
    fused,
)
from vitjax.models.convit import SIZES, Size

# D width, H heads, N patches.

BLOCK = ("norm1", "norm1"), ("norm2", "norm2"), ("mlp/up", "mlp.fc1"), ("mlp/down", "mlp.fc2")
# Weight [H, 3] of (column, row, squared distance) <-> kernel [3, H] of (distance, row, column).
POSITIONS = Form(
    lambda tensor, shapes: (np.ascontiguousarray(tensor[:, ::-1].T).reshape(shapes[0]),),
    lambda arrays: np.ascontiguousarray(arrays[0].T[:, ::-1]),
)
# [1, N, D] <-> [h, w, D].
TABLE = Form(
    lambda tensor, shapes: (tensor.reshape(shapes[0]),),
    lambda arrays: arrays[0].reshape(1, -1, arrays[0].shape[-1]),
)


def at(names, suffix):
    """The suffix behind a name, or behind each of a tuple."""
    return names + suffix if isinstance(names, str) else tuple(name + suffix for name in names)


def _recognise(shapes):
    stem, gate, table, up = (
        shapes.get(name)
        for name in (
            "patch_embed.proj.weight",
            "blocks.0.attn.gating_param",
            "pos_embed",
            "blocks.0.mlp.fc1.weight",
        )
    )
    if None in (stem, gate, table, up):
        return None
    side = math.isqrt(table[1])
    if side * side != table[1]:
        raise ValueError(f"pos_embed of {table[1]} patches: only square images are supported")
    depth = blocks_of(shapes, "blocks.{}.norm1.weight")
    local = sum(f"blocks.{i}.attn.gating_param" in shapes for i in range(depth))
    size = Size(stem[0], depth, local, up[0], gate[0])
    named = [name for name, known in SIZES.items() if known == size]
    encoder = {"name": "convit", "variant": f"{named[0] if named else 'S'}/{stem[-1]}"}
    encoder |= {} if named else size._asdict()
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    return Spec(encoder, classes, image_size=side * stem[-1], preprocessing=IMAGENET)


def _size(spec):
    """(the numbers of an encoder, the name of its size, its patch side)."""
    have = spec.settings()
    name, _, patch = have["variant"].partition("/")
    given = {field: have[field] for field in Size._fields if have[field] is not None}
    size = SIZES[name]._replace(**given)
    return size, next((n for n, known in SIZES.items() if known == size), None), int(patch)


def _rules(spec):
    require(spec, "timm", mask_token=(False,))
    if spec.hidden:
        raise ValueError(
            f"timm has no convit with a hidden layer in its head, this one has "
            f"objective.head_hidden={spec.hidden}: give another --to"
        )
    size, _, _ = _size(spec)

    def pair(ours, theirs, weight=LINEAR, kind="kernel"):
        return [
            Rule(f"{ours}/{kind}", at(theirs, ".weight"), weight),
            Rule(f"{ours}/bias", at(theirs, ".bias"), VECTOR),
        ]

    table = [
        *pair("encoder/embedding", "patch_embed.proj", CONV),
        *pair("encoder/norm", "norm", VECTOR, "scale"),
        Rule("encoder/position_embedding", "pos_embed", TABLE),
        Rule("encoder/cls", "cls_token", copy_as(1, 1, None)),
    ]
    for stage, numbers in (
        ("stage_1", range(size.local)),
        ("stage_2", range(size.local, size.depth)),
    ):
        ours, theirs = f"encoder/{stage}/blocks", tuple(f"blocks.{i}." for i in numbers)
        for here, there in BLOCK:
            norm = (VECTOR, "scale") if "norm" in here else (LINEAR, "kernel")
            table += pair(f"{ours}/{here}", at(theirs, there), *norm)
        table += pair(f"{ours}/attention/out", at(theirs, "attn.proj"), LINEAR_OUT)
        kernel = f"{ours}/attention/{{}}/kernel".format
        if stage == "stage_1":
            table += pair(f"{ours}/attention/positions", at(theirs, "attn.pos_proj"), POSITIONS)
            asked = (kernel("query"), kernel("key"))
            table += [
                Rule(asked, at(theirs, "attn.qk.weight"), fused(LINEAR, 2)),
                Rule(kernel("value"), at(theirs, "attn.v.weight"), LINEAR),
                Rule(f"{ours}/attention/gate", at(theirs, "attn.gating_param"), VECTOR),
            ]
        else:
            parts = tuple(kernel(name) for name in ("query", "key", "value"))
            table.append(Rule(parts, at(theirs, "attn.qkv.weight"), QKV))
    return table + (pair("head/logits", "head") if spec.classes else [])


def _files(spec):
    """timm has a function for each size, of patches of 16."""
    size, name, patch = _size(spec)
    functions = {"Ti": "convit_tiny", "S": "convit_small", "B": "convit_base"}
    if name not in functions or patch != 16:
        raise ValueError(
            f"timm has no convit of {size} and patch {patch}, only encoder.variant Ti, S or B "
            "with patch 16: give another --to"
        )
    return timm_files(
        spec,
        functions[name],
        size.width,
        {"img_size": spec.image_size},
        first_conv="patch_embed.proj",
        classifier="head",
        fixed_input_size=True,
    )


LAYOUTS = {"timm": {"convit": Layout(_recognise, _rules, files=_files)}}
