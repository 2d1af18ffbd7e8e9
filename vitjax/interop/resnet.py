"""ResNets as torchvision, timm and Hugging Face name them.

torchvision and timm name a ResNet with batch norm alike: such a file is read as torchvision's; with
group norm it is timm's (its resnet50_gn). Both have the published widths only, Hugging Face batch
norm of any width; none of them has the small stem.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from vitjax import models
from vitjax.interop.beside import huggingface_files, timm_files
from vitjax.interop.layout import Layout, Preprocessing, Spec, Tensors, blocks_of, require
from vitjax.interop.rules import CONV, LINEAR, VECTOR, Form, Rule, Shape, constant
from vitjax.models.resnet import VARIANTS, BasicBlock

# Torch's names of what a norm holds; the counter of batches says nothing to evaluation.
SCALES = {"scale": "weight", "bias": "bias"}
STATISTICS = {"mean": "running_mean", "var": "running_var"}
COUNTER = np.zeros((), np.int64)
BILINEAR = Preprocessing(resize="bilinear")


class Names(NamedTuple):
    """What a project calls the parts, before ".weight", ".running_mean" and so on.

    block: where one begins, by {s} from 0 or {stage} from 1, and its index {j} from 0. conv, norm:
    of a block, by {i} from 0 or {k} from 1.
    """

    stem_conv: str
    stem_norm: str
    block: str
    conv: str
    norm: str
    shortcut_conv: str
    shortcut_norm: str
    head: str

    def block_at(self, s: int, j: int | str) -> str:
        return self.block.format(s=s, stage=s + 1, j=j)

    def conv_at(self, i: int) -> str:
        return self.conv.format(i=i, k=i + 1)

    def norm_at(self, i: int) -> str:
        return self.norm.format(i=i, k=i + 1)


TORCHVISION = Names(
    stem_conv="conv1",
    stem_norm="bn1",
    block="layer{stage}.{j}.",
    conv="conv{k}",
    norm="bn{k}",
    shortcut_conv="downsample.0",
    shortcut_norm="downsample.1",
    head="fc",
)
HUGGINGFACE = Names(
    stem_conv="embedder.embedder.convolution",
    stem_norm="embedder.embedder.normalization",
    block="encoder.stages.{s}.layers.{j}.",
    conv="layer.{i}.convolution",
    norm="layer.{i}.normalization",
    shortcut_conv="shortcut.convolution",
    shortcut_norm="shortcut.normalization",
    head="classifier.1",
)
HUGGINGFACE_PREFIX = "resnet."  # of everything but the classifier, where there is one
HUGGINGFACE_FIXED = {
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,  # the stride is on the 3x3: v1.5
}


def stage_rules(
    ours: str,
    blocks: Sequence[int],
    parts: Mapping[str, tuple[str, Form]],
    block_at,
    projected_from: int = 0,
) -> list[Rule]:
    """Rules of stages of a "first" block and stacked "blocks", as in models.resnet.

    ours: path of what holds "stage_1". blocks: of each stage. parts: path below a block of ours ->
    (name below a block of theirs, form). block_at(stage, index), both from 0 -> where theirs
    begins. The parts of a shortcut are in the first block of stages from `projected_from` on.
    """
    table = []
    for stage, length in enumerate(blocks):
        for path, (name, form) in parts.items():
            shortcut = path.startswith("shortcut")
            if not shortcut or stage >= projected_from:
                first = f"{ours}/stage_{stage + 1}/first/{path}"
                table.append(Rule(first, block_at(stage, 0) + name, form))
            if not shortcut and length > 1:
                names = tuple(block_at(stage, index) + name for index in range(1, length))
                table.append(Rule(f"{ours}/stage_{stage + 1}/blocks/{path}", names, form))
    return table


def head_rules(spec: Spec, layout: str, weight: str, form: Form, bias: str) -> list[Rule]:
    """Rules of the classifier. Raises ValueError where there is a layer before it."""
    if spec.hidden:
        raise ValueError(
            f"{layout} has no {spec.encoder['name']} with a layer before the logits, and this head "
            f"has objective.head_hidden={spec.hidden}: give another --to"
        )
    if not spec.classes:
        return []
    return [Rule("head/logits/kernel", weight, form), Rule("head/logits/bias", bias, VECTOR)]


def _recognise(shapes: Mapping[str, Shape], names: Names, norm: str) -> Spec | None:
    """The Spec of a file with these names and this norm."""
    stem = shapes.get(f"{names.stem_conv}.weight", ())
    second = [names.block_at(s, "{}") + names.conv_at(1) + ".weight" for s in range(4)]
    batch = f"{names.stem_norm}.running_mean" in shapes
    if len(stem) != 4 or any(template.format(0) not in shapes for template in second):
        return None
    if batch != (norm == "batch"):
        return None
    if stem[2:] != (7, 7):
        raise ValueError(
            f"{names.stem_conv}.weight is {stem[2]} x {stem[3]}, 7 x 7 was expected: what follows "
            f"another stem is not in the file"
        )
    # Grouped or wide blocks (ResNeXt, Wide ResNet) show in the first block's second convolution.
    inner = shapes[second[0].format(0)]
    if inner[:2] != (stem[0], stem[0]):
        raise ValueError(
            f"{second[0].format(0)} is {inner}, {stem[0]} channels in and out were expected: no "
            f"encoder.name resnet has grouped or wider blocks"
        )
    blocks = tuple(blocks_of(shapes, template) for template in second)
    basic = names.block_at(0, 0) + names.conv_at(2) + ".weight" not in shapes
    found = [
        variant
        for variant, (block, lengths) in VARIANTS.items()
        if lengths == blocks and (block is BasicBlock) == basic
    ]
    if not found:
        raise ValueError(
            f"a ResNet of {blocks} {'basic' if basic else 'bottleneck'} blocks is none of "
            f"encoder.variant {', '.join(VARIANTS)}"
        )
    encoder: dict[str, Any] = {"name": "resnet", "variant": found[0]}
    if norm != "batch":
        encoder["norm"] = norm
    if stem[0] != 64:
        encoder["width"] = stem[0] / 64
    head = f"{names.head}.weight"
    classes = shapes[head][0] if head in shapes else 0
    return Spec(encoder, classes=classes, preprocessing=BILINEAR)


def _rules(spec: Spec, layout: str, names: Names, prefix: str = "") -> list[Rule]:
    """The table for names of which all but the head's stand behind `prefix`."""
    settings = spec.settings()
    block, blocks = VARIANTS[str(settings["variant"])]
    count, projected_from = (2, 1) if block is BasicBlock else (3, 0)
    convs = {"shortcut_conv": names.shortcut_conv}
    convs |= {f"conv{i + 1}": names.conv_at(i) for i in range(count)}
    norms = {"shortcut_norm": names.shortcut_norm}
    norms |= {f"norm{i + 1}": names.norm_at(i) for i in range(count)}

    def block_at(s, j):
        return prefix + names.block_at(s, j)

    def norm_rules(collection, leaves):
        table = [
            Rule(f"{collection}/stem_norm/{leaf}", f"{prefix}{names.stem_norm}.{name}", VECTOR)
            for leaf, name in leaves.items()
        ]
        parts = {
            f"{ours}/{leaf}": (f"{theirs}.{name}", VECTOR)
            for ours, theirs in norms.items()
            for leaf, name in leaves.items()
        }
        return table + stage_rules(collection, blocks, parts, block_at, projected_from)

    kernels = {f"{ours}/kernel": (f"{theirs}.weight", CONV) for ours, theirs in convs.items()}
    table = [Rule("encoder/stem_conv/kernel", f"{prefix}{names.stem_conv}.weight", CONV)]
    table += stage_rules("encoder", blocks, kernels, block_at, projected_from)
    table += norm_rules("encoder", SCALES)
    if settings["norm"] == "batch":
        statistics = norm_rules("stats", STATISTICS)
        table += statistics + [
            constant(name.replace("running_mean", "num_batches_tracked"), COUNTER)
            for rule in statistics
            for name in ((rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs)
            if name.endswith("running_mean")
        ]
    return table + head_rules(spec, layout, f"{names.head}.weight", LINEAR, f"{names.head}.bias")


def _rules_torchvision(spec):
    require(spec, "torchvision", norm=("batch",), stem=("imagenet",), width=(1,))
    return _rules(spec, "torchvision", TORCHVISION)


def _recognise_timm(shapes):
    return _recognise(shapes, TORCHVISION, "group")


def _rules_timm(spec):
    require(spec, "timm", stem=("imagenet",), width=(1,))
    return _rules(spec, "timm", TORCHVISION)


def _files_timm(spec):
    settings = spec.settings()
    return timm_files(
        spec,
        f"resnet{settings['variant']}",
        models.create(**spec.encoder).width,
        {"norm_layer": "groupnorm"} if settings["norm"] == "group" else {},
        first_conv=TORCHVISION.stem_conv,
        classifier=TORCHVISION.head,
    )


def _configure_timm(spec, config):
    """timm's relatives (blurred, anti-aliased) have the same tensors, and other outputs."""
    plain = f"resnet{spec.settings()['variant']}"
    name = config.get("architecture", plain)
    if isinstance(name, str) and name != plain and not name.startswith(f"{plain}_gn"):
        raise ValueError(
            f"config.json has architecture={name!r}, whose tensors are those of {plain} and whose "
            f"layers are not: no encoder here has them"
        )
    return spec


def _prepare_huggingface(tensors: Tensors) -> Tensors:
    """Without a classifier, as ResNetModel has it, no name has the prefix."""
    prefixed = f"{HUGGINGFACE_PREFIX}{HUGGINGFACE.stem_conv}.weight" in tensors
    if not prefixed or f"{HUGGINGFACE.head}.weight" in tensors:
        return tensors
    return {name.removeprefix(HUGGINGFACE_PREFIX): tensor for name, tensor in tensors.items()}


def _recognise_huggingface(shapes):
    bare = {name.removeprefix(HUGGINGFACE_PREFIX): shape for name, shape in shapes.items()}
    return _recognise(bare, HUGGINGFACE, "batch")


def _rules_huggingface(spec):
    require(spec, "huggingface", norm=("batch",), stem=("imagenet",))
    prefix = HUGGINGFACE_PREFIX if spec.classes else ""
    return _rules(spec, "huggingface", HUGGINGFACE, prefix)


def _configure_huggingface(spec, config):
    """What the shapes cannot say, and ours is not: where the stride is, the activation."""
    for key, value in {**HUGGINGFACE_FIXED, **config}.items():
        if key in HUGGINGFACE_FIXED and value != HUGGINGFACE_FIXED[key]:
            raise ValueError(
                f"config.json says {key}={value!r}; encoder.name resnet is what it is with "
                f"{HUGGINGFACE_FIXED[key]!r}"
            )
    return spec


def _files_huggingface(spec):
    settings = spec.settings()
    block, blocks = VARIANTS[str(settings["variant"])]
    width = round(64 * settings["width"])
    config = {
        "model_type": "resnet",
        "embedding_size": width,
        "hidden_sizes": [width * 2**s * block.EXPANSION for s in range(4)],
        "depths": list(blocks),
        "layer_type": "basic" if block is BasicBlock else "bottleneck",
        **HUGGINGFACE_FIXED,
    }
    return huggingface_files(spec, "ResNet", config)


LAYOUTS = {
    "timm": {
        "resnet": Layout(_recognise_timm, _rules_timm, files=_files_timm, configure=_configure_timm)
    },
    "torchvision": {
        "resnet": Layout(
            partial(_recognise, names=TORCHVISION, norm="batch"),
            _rules_torchvision,
            files=lambda spec: {},
            configure=_configure_timm,
        )
    },
    "huggingface": {
        "resnet": Layout(
            _recognise_huggingface,
            _rules_huggingface,
            _prepare_huggingface,
            files=_files_huggingface,
            configure=_configure_huggingface,
        )
    },
}
