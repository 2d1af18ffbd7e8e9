"""BiT ResNets as timm and big_vision name them, and the same units in the stem of hybrids.

timm has the form "preact" only. big_vision's .npz has both, "preact" also under the older names of
the published files (from TensorFlow), which are read and not written.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vitjax.interop.beside import timm_files
from vitjax.interop.layout import HALF, Layout, Spec, Tensors, require
from vitjax.interop.resnet import head_rules, stage_rules
from vitjax.interop.rules import CONV, LINEAR_1X1, SAME, VECTOR, Form, Rule, Shape, copy_as
from vitjax.models.bit import VARIANTS, size_of

# Pixels in [-1, 1], as big_vision trains; the rest is timm's default for the published weights.
PREPROCESSING = dataclasses.replace(HALF, resize="bilinear")


class Names(NamedTuple):
    """What a project calls the parts of one form.

    block(stage, index), both from 0 -> where a unit begins. conv, norm: of a unit, by {k} from 1.
    leaves: what stands at the end for our kernel, scale and bias, and their forms. stem_norm,
    shortcut_norm, last_norm: "" where the form has none.
    """

    stem_conv: str
    stem_norm: str
    block: Callable[[int, int], str]
    conv: str
    norm: str
    shortcut_conv: str
    shortcut_norm: str
    last_norm: str
    leaves: Mapping[str, tuple[str, Form]]


TORCH = {"kernel": (".weight", CONV), "scale": (".weight", VECTOR), "bias": (".bias", VECTOR)}
FLAX = {"kernel": ("/kernel", SAME), "scale": ("/scale", VECTOR), "bias": ("/bias", VECTOR)}
FLAX_4D = FLAX | {leaf: (f"/{leaf}", copy_as(1, 1, 1, None)) for leaf in ("scale", "bias")}
TIMM = Names(
    stem_conv="stem.conv",
    stem_norm="",
    block="stages.{}.blocks.{}.".format,
    conv="conv{k}",
    norm="norm{k}",
    shortcut_conv="downsample.conv",
    shortcut_norm="",
    last_norm="norm",
    leaves=TORCH,
)
BIG_VISION = {
    "preact": Names(
        stem_conv="root_block/conv_root",
        stem_norm="",
        block=lambda stage, index: f"block{stage + 1}/unit{index + 1:02d}/",
        conv="conv{k}",
        norm="gn{k}",
        shortcut_conv="conv_proj",
        shortcut_norm="",
        last_norm="norm-pre-head",
        leaves=FLAX_4D,
    ),
    "postact": Names(
        stem_conv="conv_root",
        stem_norm="gn_root",
        block=lambda stage, index: f"block{stage + 1}/unit{index + 1}/",
        conv="conv{k}",
        norm="gn{k}",
        shortcut_conv="conv_proj",
        shortcut_norm="gn_proj",
        last_norm="",
        leaves=FLAX,
    ),
}
# The stem of a hybrid, which has no last norm; timm puts a prefix before it.
STEMS = {
    "timm": TIMM._replace(stem_norm="stem.norm", shortcut_norm="downsample.norm", last_norm=""),
    "big_vision": BIG_VISION["postact"],
}
# Depths of timm's constructors and their width factors.
TIMM_WIDTHS = {"50": (1, 3), "101": (1, 3), "152": (2, 4)}


def postact_rules(ours: str, theirs: str, blocks: Sequence[int], project: str) -> list[Rule]:
    """Rules of `models.weight_standardised.ResNetStem` at the path `ours` in a hybrid of timm or
    big_vision. theirs: what stands before every name, "patch_embed.backbone." in timm."""
    names = STEMS[project]
    if project == "timm" and not blocks:  # the root alone is no ResNet there
        names = names._replace(stem_conv="conv", stem_norm="norm")
    return _rules(ours, theirs, blocks, names)


def _rules(ours, theirs, blocks, names):
    """The table of everything below the head."""

    def leaves(path, name, *which):
        if not name:
            return {}
        return {
            f"{path}/{leaf}": (name + names.leaves[leaf][0], names.leaves[leaf][1])
            for leaf in which
        }

    outside = leaves("stem_conv", names.stem_conv, "kernel")
    outside |= leaves("stem_norm", names.stem_norm, "scale", "bias")
    outside |= leaves("norm", names.last_norm, "scale", "bias")
    parts = leaves("shortcut_conv", names.shortcut_conv, "kernel")
    parts |= leaves("shortcut_norm", names.shortcut_norm, "scale", "bias")
    for k in (1, 2, 3):
        parts |= leaves(f"conv{k}", names.conv.format(k=k), "kernel")
        parts |= leaves(f"norm{k}", names.norm.format(k=k), "scale", "bias")
    table = [Rule(f"{ours}/{path}", theirs + name, form) for path, (name, form) in outside.items()]
    return table + stage_rules(ours, blocks, parts, lambda s, j: theirs + names.block(s, j))


def _size(spec: Spec) -> tuple[tuple[int, ...], int]:
    """(units of each stage, channels of the stem)."""
    settings = spec.settings()
    return size_of(settings["variant"], settings["depths"], settings["width"])


def _units(shapes: Mapping[str, Shape], names: Names) -> tuple[int, ...]:
    """How many units each stage has in a file."""
    last = names.conv.format(k=3) + names.leaves["kernel"][0]
    depths = []
    while names.block(len(depths), 0) + last in shapes:
        count = 1
        while names.block(len(depths), count) + last in shapes:
            count += 1
        depths.append(count)
    return tuple(depths)


def _spec(form: str, depths: tuple[int, ...], width: int, classes: int) -> Spec:
    encoder: dict[str, Any] = {"name": "bit", "variant": "R50x1", "form": form}
    found = [depth for depth, units in VARIANTS.items() if units == depths]
    if found and width % 64 == 0:
        encoder["variant"] = f"R{found[0]}x{width // 64}"
    else:
        encoder |= {"depths": depths, "width": width}
    return Spec(encoder, classes=classes, preprocessing=PREPROCESSING)


def _recognise_timm(shapes):
    stem, depths = shapes.get("stem.conv.weight", ()), _units(shapes, TIMM)
    # With batch norm, or norms after the convolutions, it is another of timm's ResNets.
    others = {"norm.running_mean", "stem.norm.weight"} & set(shapes)
    if len(stem) != 4 or not depths or "norm.weight" not in shapes or others:
        return None
    head = shapes.get("head.fc.weight", (0,))
    return _spec("preact", depths, stem[0], head[0])


def _rules_timm(spec):
    require(spec, "timm", form=("preact",))
    table = _rules("encoder", "", _size(spec)[0], TIMM)
    return table + head_rules(spec, "timm", "head.fc.weight", LINEAR_1X1, "head.fc.bias")


def _files_timm(spec):
    depths, width = _size(spec)
    # Its constructors fix units and width factor; channels say the rest, fewer stages included.
    found = [depth for depth in TIMM_WIDTHS if VARIANTS[depth][: len(depths)] == depths]
    if not found:
        raise ValueError(
            f"timm has no bit with stages of {depths} units, only of depths "
            f"{', '.join(TIMM_WIDTHS)} in encoder.variant: give another --to"
        )
    factors = TIMM_WIDTHS[found[0]]
    factor = width // 64 if width in [64 * n for n in factors] else factors[0]
    channels = [width * 2 ** (stage + 2) for stage in range(len(depths))]
    arguments = {"stem_chs": width // factor, "channels": [n // factor for n in channels]}
    return timm_files(
        spec,
        f"resnetv2_{found[0]}x{factor}_bit",
        channels[-1],
        arguments,
        first_conv="stem.conv",
        classifier="head.fc",
    )


# From the names of the TensorFlow files to those of BIG_VISION["preact"], one after another.
OLDER = (
    (r"^resnet/", ""),
    (r"/standardized_conv2d(_\d+)?/", "/conv/"),  # some files count their convolutions
    (r"^root_block/conv/", "root_block/conv_root/"),
    (r"/a/proj/conv/", "/conv_proj/"),
    (r"/a/(conv|group_norm)/", r"/\g<1>1/"),
    (r"/b/(conv|group_norm)/", r"/\g<1>2/"),
    (r"/c/(conv|group_norm)/", r"/\g<1>3/"),
    (r"^group_norm/", "norm-pre-head/"),
    (r"/group_norm(\d)/", r"/gn\1/"),
    (r"/gamma$", "/scale"),
    (r"/beta$", "/bias"),
    (r"^head/conv2d/", "head/"),
)


def _prepare_big_vision(tensors: Tensors) -> Tensors:
    """Older names, and group norms [1, 1, 1, C] of V1 files from before 2021."""
    if any(name.startswith("resnet/") for name in tensors):
        return dict(_from_tensorflow(name, tensor) for name, tensor in tensors.items())
    if "conv_root/kernel" in tensors:
        norms = {name for name in tensors if re.search(r"(^|/)gn(\d|_root|_proj)/", name)}
        return {
            name: tensor.reshape(-1) if name in norms else tensor
            for name, tensor in tensors.items()
        }
    return tensors


def _from_tensorflow(name, tensor):
    for pattern, replacement in OLDER:
        name = re.sub(pattern, replacement, name)
    if name == "head/kernel":  # a 1 x 1 convolution
        tensor = tensor[0, 0]
    if re.search(r"(gn\d|norm-pre-head)/", name):
        tensor = tensor.reshape(1, 1, 1, -1)
    return name, tensor


def _recognise_big_vision(shapes):
    if "embedding/kernel" in shapes:  # a hybrid: its stem is named as "postact"
        return None
    for form, names in BIG_VISION.items():
        stem, depths = shapes.get(f"{names.stem_conv}/kernel", ()), _units(shapes, names)
        if len(stem) == 4 and depths:
            return _spec(form, depths, stem[-1], shapes.get("head/kernel", (0,))[-1])
    return None


def _rules_big_vision(spec):
    names = BIG_VISION[spec.settings()["form"]]
    table = _rules("encoder", "", _size(spec)[0], names)
    return table + head_rules(spec, "big_vision", "head/kernel", SAME, "head/bias")


LAYOUTS = {
    "timm": {"bit": Layout(_recognise_timm, _rules_timm, files=_files_timm)},
    "big_vision": {
        "bit": Layout(
            _recognise_big_vision,
            _rules_big_vision,
            _prepare_big_vision,
            files=lambda spec: {},
        )
    },
}
