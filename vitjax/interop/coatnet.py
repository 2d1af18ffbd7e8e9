"""CoAtNets as timm names them, the only project that has them with weights.

Shapes do not say everything: where a block strides, and what activates. A file with the numbers of
a named variant is that variant; for other numbers config.json beside the file says it, or else the
first variant that has such tensors is taken, with a warning.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from vitjax.interop.beside import timm_files
from vitjax.interop.layout import HALF, IMAGENET, Layout, Preprocessing, Spec, blocks_of
from vitjax.interop.rules import (
    CONV,
    LINEAR,
    LINEAR_1X1,
    VECTOR,
    Form,
    Rule,
    Shape,
    constant,
)
from vitjax.lookup import lookup
from vitjax.models.coatnet import HEAD_WIDTH, STRIDE, VARIANTS, Variant

# C channels, H heads, D width of a head.

NUMBERS = ("depths", "dims", "stem")
STATISTIC = "running_mean"


def _read_qkv(tensor, shapes):
    split = tensor.reshape(-1, 3, HEAD_WIDTH, tensor.size // tensor.shape[0])  # [H, 3, D, C]
    return tuple(
        split[:, part].transpose(2, 0, 1).reshape(shape) for part, shape in enumerate(shapes)
    )


def _write_qkv(arrays):
    parts = [a.reshape(-1, *a.shape[-2:]).transpose(1, 2, 0) for a in arrays]  # [H, D, C]
    rows = np.stack(parts, axis=1)
    return rows.reshape((-1, rows.shape[-1], 1, 1) if arrays[0].ndim == 3 else -1)


# The head comes first: weight [H * 3 * D, C, 1, 1] <-> kernels [C, H, D], bias [H * 3 * D] <->
# biases [H, D].
QKV = Form(_read_qkv, _write_qkv)
# Weight [C, H * D, 1, 1] <-> kernel [H, D, C].
OUT = Form(
    lambda tensor, shapes: (tensor[:, :, 0, 0].T.reshape(shapes[0]),),
    lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]).T[:, :, None, None],
)
# Both axes of offsets in one <-> [2h - 1, 2w - 1, H].
TABLE = Form(
    lambda tensor, shapes: (tensor.reshape(shapes[0]),),
    lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]),
)

# Paths of ours, with a place for the block -> (name of theirs below a block, form).
Parts = dict[str | tuple[str, ...], tuple[str, Form]]


def _norm(ours: str, theirs: str, statistics: bool) -> Parts:
    parts = {
        f"encoder/{ours}/scale": (f"{theirs}.weight", VECTOR),
        f"encoder/{ours}/bias": (f"{theirs}.bias", VECTOR),
    }
    if statistics:
        parts[f"stats/{ours}/mean"] = (f"{theirs}.{STATISTIC}", VECTOR)
        parts[f"stats/{ours}/var"] = (f"{theirs}.running_var", VECTOR)
    return parts


def _layer(ours: str, theirs: str, form: Form, bias: bool = True) -> Parts:
    parts = {f"encoder/{ours}/kernel": (f"{theirs}.weight", form)}
    if bias:
        parts[f"encoder/{ours}/bias"] = (f"{theirs}.bias", VECTOR)
    return parts


def _mbconv(style, first, expands) -> Parts:
    squeeze = "se_early" if style.early_squeeze else "se"
    parts = (
        _norm("{}/norm", "pre_norm", True)
        | _layer("{}/conv1", "conv1_1x1", CONV, bias=False)
        | _norm("{}/norm1", "norm1", True)
        | _layer("{}/depthwise", "conv2_kxk", CONV, bias=False)
        | _layer("{}/squeeze/down", f"{squeeze}.fc1", LINEAR_1X1)
        | _layer("{}/squeeze/up", f"{squeeze}.fc2", LINEAR_1X1)
        | _norm("{}/norm2", "norm2", True)
        | _layer("{}/conv3", "conv3_1x1", CONV, style.biases)
    )
    if first and expands:
        parts |= _layer("{}/shortcut_conv", "shortcut.expand", CONV, style.biases)
    return parts


def _attention(style, first, expands) -> Parts:
    statistics = style.norm == "batch"
    projections = [f"encoder/{{}}/attention/{name}" for name in ("query", "key", "value")]
    parts = _norm("{}/norm1", "norm1.norm" if first else "norm1", statistics)
    parts |= {
        tuple(f"{path}/kernel" for path in projections): ("attn.qkv.weight", QKV),
        tuple(f"{path}/bias" for path in projections): ("attn.qkv.bias", QKV),
    }
    parts |= _layer("{}/attention/out", "attn.proj", OUT)
    if style.positions:
        parts |= _layer("{}/attention/positions_up", "attn.rel_pos.mlp.fc1", LINEAR)
        parts |= _layer("{}/attention/positions_down", "attn.rel_pos.mlp.fc2", LINEAR)
    else:
        table = "attn.rel_pos.relative_position_bias_table"
        parts["encoder/{}/attention/position_bias"] = (table, TABLE)
    parts |= _norm("{}/norm2", "norm2", statistics)
    parts |= _layer("{}/mlp/up", "mlp.fc1", LINEAR_1X1)
    parts |= _layer("{}/mlp/down", "mlp.fc2", LINEAR_1X1)
    if style.layer_scale:
        parts["encoder/{}/layer_scale1"] = ("ls1.gamma", VECTOR)
        parts["encoder/{}/layer_scale2"] = ("ls2.gamma", VECTOR)
    if first and expands:
        parts |= _layer("{}/shortcut_conv", "shortcut.expand", CONV, style.shortcut_bias)
    return parts


def _variant(spec: Spec) -> Variant:
    settings = spec.settings()
    given = {key: tuple(settings[key]) for key in NUMBERS if settings[key] is not None}
    return VARIANTS[settings["variant"]]._replace(**given)


def rules(spec: Spec) -> list[Rule]:
    style, depths, dims, stem = variant = _variant(spec)
    parts = (
        _layer("stem_conv1", "stem.conv1", CONV, bias=False)
        | _norm("stem_norm", "stem.norm1", True)
        | _layer("stem_conv2", "stem.conv2", CONV, bias=False)
        | _norm("norm", "head.norm" if style.head == "mean" else "norm", style.norm == "batch")
    )
    table = [Rule(path, name, form) for path, (name, form) in parts.items()]
    for stage, length in enumerate(depths):
        block = _mbconv if stage < 2 else _attention
        expands = (stem[1], *dims)[stage] != dims[stage]
        for path, (name, form) in block(style, True, expands).items():
            ours = _at(path, f"stage_{stage + 1}/first")
            table.append(Rule(ours, f"stages.{stage}.blocks.0.{name}", form))
        if length == 1:
            continue
        for path, (name, form) in block(style, False, expands).items():
            ours = _at(path, f"stage_{stage + 1}/blocks")
            names = tuple(f"stages.{stage}.blocks.{index}.{name}" for index in range(1, length))
            table.append(Rule(ours, names, form))
    counters = [
        constant(name.replace(STATISTIC, "num_batches_tracked"), np.zeros((), np.int64))
        for rule in table
        for name in ([rule.theirs] if isinstance(rule.theirs, str) else rule.theirs)
        if name.endswith(STATISTIC)
    ]
    return table + counters + _head_rules(spec, variant)


def _at(path, block):
    if isinstance(path, str):
        return path.format(block)
    return tuple(each.format(block) for each in path)


def _head_rules(spec, variant) -> list[Rule]:
    """After the paper there is a tanh layer before the logits, and without logits a head ends in
    it: no encoder here has that layer, it is read past and written as the identity."""
    tanh, width = variant.style.head == "mean", variant.dims[-1]
    if spec.classes and bool(spec.hidden) != tanh:
        expected = "above 0, as the paper has it" if tanh else "0"
        raise ValueError(
            f"timm has no coatnet with encoder.variant={spec.settings()['variant']!r} and a tanh "
            f"layer of {spec.hidden} before the logits: expected objective.head_hidden {expected}"
        )
    parts = {}
    if spec.classes:
        parts |= _linear("head/logits", "head.fc")
        if tanh:
            parts |= _linear("head/pre_logits", "head.pre_logits.fc")
    table = [Rule(path, name, form) for path, (name, form) in parts.items()]
    if tanh and not spec.classes:
        hidden = spec.hidden or width
        table += [
            constant("head.pre_logits.fc.weight", np.eye(hidden, width, dtype=np.float32)),
            constant("head.pre_logits.fc.bias", np.zeros(hidden, np.float32)),
        ]
    return table


def _linear(ours, theirs) -> Parts:
    return {
        f"{ours}/kernel": (f"{theirs}.weight", LINEAR),
        f"{ours}/bias": (f"{theirs}.bias", VECTOR),
    }


def recognise(shapes: Mapping[str, Shape]) -> Spec | None:
    first = "stages.{}.blocks.0.{}".format
    needed = [first(stage, "conv1_1x1.weight") for stage in (0, 1)]
    needed += [first(stage, "attn.qkv.weight") for stage in (2, 3)]
    needed += ["stem.conv1.weight", "stem.conv2.weight"]
    ends = [first(0, "conv3_1x1.weight"), first(1, "conv3_1x1.weight")]
    ends += [first(2, "mlp.fc2.weight"), first(3, "mlp.fc2.weight")]
    if any(name not in shapes for name in needed + ends):
        return None
    numbers = {
        "depths": tuple(
            blocks_of(shapes, f"stages.{stage}.blocks.{{}}.norm2.weight") for stage in range(4)
        ),
        "dims": tuple(shapes[name][0] for name in ends),
        "stem": tuple(shapes[f"stem.conv{index}.weight"][0] for index in (1, 2)),
    }
    positions = first(2, "attn.rel_pos.mlp.fc1.weight")
    seen = {
        "head": "mean" if "head.norm.weight" in shapes else "map",
        "biases": first(0, "conv3_1x1.bias") in shapes,
        "early_squeeze": first(0, "se_early.fc1.weight") in shapes,
        "layer_scale": first(2, "ls1.gamma") in shapes,
        "norm": "batch" if first(2, f"norm2.{STATISTIC}") in shapes else "layer",
        "positions": shapes[positions][0] if positions in shapes else 0,
    }
    fitting = [name for name, variant in VARIANTS.items() if _says(variant.style, seen)]
    if not fitting:
        words = ", ".join(f"{key} {value}" for key, value in seen.items())
        raise ValueError(f"a coatnet of timm's with {words}: no encoder.variant here is like that")
    return _spec(shapes, fitting, numbers)


def _says(style, seen):
    have = {key: getattr(style, key) for key in seen}
    return have | {"layer_scale": bool(style.layer_scale)} == seen


def _spec(shapes, fitting, numbers) -> Spec:
    named = [name for name in fitting if VARIANTS[name]._asdict().items() >= numbers.items()]
    variant = (named or fitting)[0]
    if not named and len({VARIANTS[name].style for name in fitting}) > 1:
        logging.warning(
            "the tensors fit a coatnet %s with other numbers: read as %s unless variant= is given",
            " or ".join(fitting),
            variant,
        )
    classes = shapes["head.fc.weight"][0] if "head.fc.weight" in shapes else 0
    hidden = "head.pre_logits.fc.weight"
    table = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
    # A table of (2h - 1)^2 offsets, on a map 16 times smaller than the image.
    side = (math.isqrt(shapes[table][0]) + 1) * STRIDE // 4 if table in shapes else 224
    return Spec(
        {"name": "coatnet", "variant": variant} | ({} if named else numbers),
        classes=classes,
        hidden=shapes[hidden][0] if hidden in shapes else 0,
        image_size=side,
        preprocessing=_preprocessing(variant),
    )


def _preprocessing(variant) -> Preprocessing:
    if variant == "bn_0_rw":
        return Preprocessing(IMAGENET.mean, IMAGENET.std, crop=0.95)
    return Preprocessing(HALF.mean, HALF.std, crop=0.9 if "nano" in variant else 0.95)


def configure(spec: Spec, config: Mapping[str, Any]) -> Spec:
    """What the architecture beside the weights says: the variant whose numbers were changed, and
    the image size, where no table does."""
    encoder, image_size = dict(spec.encoder), spec.image_size
    if "depths" in encoder and "architecture" in config:
        variants = {_architecture(name): name for name in VARIANTS}
        encoder["variant"] = lookup(variants, config["architecture"], "architecture in config.json")
    if VARIANTS[encoder["variant"]].style.positions and "pretrained_cfg" in config:
        image_size = config["pretrained_cfg"]["input_size"][1]
    return dataclasses.replace(spec, encoder=encoder, image_size=image_size)


def _architecture(variant):
    return f"coatnet_{variant}_224"


def files(spec: Spec) -> dict[str, dict]:
    style, depths, dims, stem = _variant(spec)
    arguments = {
        "img_size": spec.image_size,
        "depths": list(depths),
        "embed_dim": list(dims),
        "stem_width": list(stem),
    }
    if style.head == "mean":
        arguments["head_hidden_size"] = spec.hidden or dims[-1]
    architecture = _architecture(spec.settings()["variant"])
    return timm_files(
        spec, architecture, dims[-1], arguments, first_conv="stem.conv1", classifier="head.fc"
    )


LAYOUTS = {"timm": {"coatnet": Layout(recognise, rules, files=files, configure=configure)}}
