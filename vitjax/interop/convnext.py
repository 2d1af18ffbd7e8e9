"""ConvNeXt's tensors as timm, torchvision, Hugging Face, Facebook and DINOv3 name them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from vitjax.interop.beside import huggingface_files, timm_files
from vitjax.interop.layout import Layout, Spec, Tensors, blocks_of, require
from vitjax.interop.rules import CONV, LINEAR, LINEAR_1X1, VECTOR, Form, Rule, Shape, copy_as
from vitjax.models.convnext import VARIANTS, Size, size_of

# C channels.


class Names(NamedTuple):
    """What a project calls the parts. ".weight" and ".bias" follow, but for scale and grn.

    downs: what stands before "0" (norm) and "1" (convolution) of the last three stages. stages:
    what stands before the number of a block. conv to grn: parts of a block. scale: LayerScale and
    its form; grn: scale and bias of V2's response norm and their form, None where V2 has no names.
    """

    stem_conv: str
    stem_norm: str
    downs: tuple[str, ...]
    stages: tuple[str, ...]
    conv: str
    norm: str
    up: str
    down: str
    scale: tuple[str, Form]
    grn: tuple[str, str, Form] | None
    last_norm: str
    head: str

    def behind(self, prefix: str):
        """The same with the encoder's names behind a prefix."""
        return self._replace(
            stem_conv=prefix + self.stem_conv,
            stem_norm=prefix + self.stem_norm,
            downs=tuple(prefix + name for name in self.downs),
            stages=tuple(prefix + name for name in self.stages),
            last_norm=prefix + self.last_norm,
        )


TIMM = Names(
    stem_conv="stem.0",
    stem_norm="stem.1",
    downs=tuple(f"stages.{s}.downsample." for s in (1, 2, 3)),
    stages=tuple(f"stages.{s}.blocks." for s in range(4)),
    conv="conv_dw",
    norm="norm",
    up="mlp.fc1",
    down="mlp.fc2",
    scale=("gamma", VECTOR),
    grn=("mlp.grn.weight", "mlp.grn.bias", VECTOR),
    last_norm="head.norm",
    head="head.fc",
)
TORCHVISION = Names(
    stem_conv="features.0.0",
    stem_norm="features.0.1",
    downs=tuple(f"features.{2 * s}." for s in (1, 2, 3)),
    stages=tuple(f"features.{2 * s + 1}." for s in range(4)),
    conv="block.0",
    norm="block.2",
    up="block.3",
    down="block.5",
    scale=("layer_scale", copy_as(None, 1, 1)),
    grn=None,
    last_norm="classifier.0",
    head="classifier.2",
)
# Facebook's two repositories, and DINOv3's.
FACEBOOK = Names(
    stem_conv="downsample_layers.0.0",
    stem_norm="downsample_layers.0.1",
    downs=tuple(f"downsample_layers.{s}." for s in (1, 2, 3)),
    stages=tuple(f"stages.{s}." for s in range(4)),
    conv="dwconv",
    norm="norm",
    up="pwconv1",
    down="pwconv2",
    scale=("gamma", VECTOR),
    grn=("grn.gamma", "grn.beta", copy_as(1, 1, 1, None)),
    last_norm="norm",
    head="head",
)
HUGGINGFACE = Names(
    stem_conv="embeddings.patch_embeddings",
    stem_norm="embeddings.layernorm",
    downs=tuple(f"encoder.stages.{s}.downsampling_layer." for s in (1, 2, 3)),
    stages=tuple(f"encoder.stages.{s}.layers." for s in range(4)),
    conv="dwconv",
    norm="layernorm",
    up="pwconv1",
    down="pwconv2",
    scale=("layer_scale_parameter", VECTOR),
    grn=("grn.weight", "grn.bias", copy_as(1, 1, 1, None)),
    last_norm="layernorm",
    head="classifier",
)
# DINOv3's at Hugging Face: a class of its own, without a head.
HUGGINGFACE_DINOV3 = Names(
    stem_conv="stages.0.downsample_layers.0",
    stem_norm="stages.0.downsample_layers.1",
    downs=tuple(f"stages.{s}.downsample_layers." for s in (1, 2, 3)),
    stages=tuple(f"stages.{s}.layers." for s in range(4)),
    conv="depthwise_conv",
    norm="layer_norm",
    up="pointwise_conv1",
    down="pointwise_conv2",
    scale=("gamma", VECTOR),
    grn=None,
    last_norm="layer_norm",
    head="classifier",
)

# Hugging Face's classes give the last norm another eps than the weights were trained with.
EPS, HUGGINGFACE_EPS = 1e-6, 1e-12
# timm's names, and those of its models that hold the MLP as 1 x 1 convolutions.
TIMM_SIZES = {
    "atto": "atto",
    "femto": "femto",
    "pico": "pico",
    "nano": "nano",
    "T": "tiny",
    "S": "small",
    "B": "base",
    "L": "large",
    "XL": "xlarge",
    "H": "huge",
}
CONV_MLP = {name for name in VARIANTS if name.endswith(("atto", "femto", "pico", "nano"))}
PREFIXES = {False: "convnext.", True: "convnextv2."}  # of Hugging Face's, by whether it is V2


def _size(spec: Spec) -> Size:
    settings = spec.settings()
    return size_of(settings["variant"], settings["depths"], settings["dims"])


def _rules(spec: Spec, names: Names, linear: Form = LINEAR) -> list[Rule]:
    """linear: the form of the two layers of an MLP."""
    size = _size(spec)
    if spec.hidden:
        raise ValueError("no layout of a convnext has a layer before the logits: drop the head")
    rules = [
        *_kernel("encoder/stem_conv", names.stem_conv, CONV),
        *_scale("encoder/stem_norm", names.stem_norm),
        *_scale("encoder/norm", names.last_norm),
    ]
    for s, depth in enumerate(size.depths):
        ours = f"encoder/stage_{s + 1}"
        if s > 0:
            rules += _scale(f"{ours}/downsample_norm", names.downs[s - 1] + "0")
            rules += _kernel(f"{ours}/downsample_conv", names.downs[s - 1] + "1", CONV)
        blocks = tuple(f"{names.stages[s]}{j}." for j in range(depth))
        rules += [
            *_kernel(f"{ours}/blocks/depthwise", _each(blocks, names.conv), CONV),
            *_scale(f"{ours}/blocks/norm", _each(blocks, names.norm)),
            *_kernel(f"{ours}/blocks/mlp/up", _each(blocks, names.up), linear),
            *_kernel(f"{ours}/blocks/mlp/down", _each(blocks, names.down), linear),
        ]
        if size.v2:
            scale, bias, form = names.grn
            rules.append(Rule(f"{ours}/blocks/mlp/grn/scale", _each(blocks, scale), form))
            rules.append(Rule(f"{ours}/blocks/mlp/grn/bias", _each(blocks, bias), form))
        else:
            scale, form = names.scale
            rules.append(Rule(f"{ours}/blocks/layer_scale", _each(blocks, scale), form))
    if spec.classes:
        rules += _kernel("head/logits", names.head, LINEAR)
    return rules


def _kernel(ours, theirs, form):
    return [
        Rule(f"{ours}/kernel", _end(theirs, ".weight"), form),
        Rule(f"{ours}/bias", _end(theirs, ".bias"), VECTOR),
    ]


def _scale(ours, theirs):
    return [
        Rule(f"{ours}/scale", _end(theirs, ".weight"), VECTOR),
        Rule(f"{ours}/bias", _end(theirs, ".bias"), VECTOR),
    ]


def _each(blocks, part):
    return tuple(block + part for block in blocks)


def _end(theirs, end):
    return theirs + end if isinstance(theirs, str) else _each(theirs, end)


def _recognise(
    shapes: Mapping[str, Shape],
    names: Names,
    variants: Sequence[str] = tuple(VARIANTS),
    otherwise: str = "T",
    **settings,
) -> Spec | None:
    """variants: that the file may be; otherwise: what stands for it beside its numbers where it is
    none of them. settings: of the encoder, beside its size."""
    convs = [f"{stage}{{}}.{names.conv}.weight" for stage in names.stages]
    stem, norm, head = (f"{n}.weight" for n in (names.stem_conv, names.stem_norm, names.head))
    if not {stem, norm, *(conv.format(0) for conv in convs)} <= set(shapes):
        return None
    if len(shapes[norm]) != 1 or len(set(shapes[stem][2:])) != 1:
        raise ValueError(
            f"the stem of this convnext is not one convolution on square patches ({stem} "
            f"{shapes[stem]}, {norm} {shapes[norm]}): no encoder here has that"
        )
    size = Size(
        depths=tuple(blocks_of(shapes, conv) for conv in convs),
        dims=tuple(shapes[conv.format(0)][0] for conv in convs),
        v2=names.grn is not None and f"{names.stages[0]}0.{names.grn[0]}" in shapes,
    )
    encoder = {"name": "convnext", **settings}
    exact = [name for name in variants if VARIANTS[name] == size]
    if exact:
        encoder["variant"] = exact[0]
    else:
        variant = f"V2-{otherwise}" if size.v2 else otherwise
        encoder |= {"variant": variant, "depths": size.depths, "dims": size.dims}
    if shapes[stem][2] != 4:
        encoder["patch"] = shapes[stem][2]
    return Spec(encoder, classes=shapes[head][0] if head in shapes else 0)


def _recognise_timm(shapes):
    up = f"{TIMM.stages[0]}0.{TIMM.up}.weight"
    conv_mlp = up in shapes and len(shapes[up]) == 4
    variants = [name for name in VARIANTS if (name in CONV_MLP) == conv_mlp]
    spec = _recognise(shapes, TIMM, variants, otherwise="atto" if conv_mlp else "T")
    if spec is not None and _size(spec) == Size((3, 4, 30, 3), (384, 768, 1536, 3072)):
        raise ValueError("timm's convnext_xxlarge has norms with eps 1e-5: no encoder here has")
    return spec


def _rules_timm(spec):
    # With other stems timm moves its strides to come to 32 in all.
    require(spec, "timm", patch=(1, 3, 4, 5, 6, 7), last_norm_eps=(EPS, HUGGINGFACE_EPS))
    linear = LINEAR_1X1 if spec.settings()["variant"] in CONV_MLP else LINEAR
    return _rules(spec, TIMM, linear)


def _files_timm(spec):
    size, settings = _size(spec), spec.settings()
    generation = "convnextv2" if size.v2 else "convnext"
    return timm_files(
        spec,
        f"{generation}_{TIMM_SIZES[settings['variant'].removeprefix('V2-')]}",
        size.dims[-1],
        {
            "depths": list(size.depths),
            "dims": list(size.dims),
            "patch_size": settings["patch"],
        },
        first_conv=TIMM.stem_conv,
        classifier=TIMM.head,
    )


def _rules_torchvision(spec):
    first = [name for name, size in VARIANTS.items() if not size.v2]
    eps = (EPS, HUGGINGFACE_EPS)
    require(spec, "torchvision", variant=first, patch=(4,), last_norm_eps=eps)
    return _rules(spec, TORCHVISION)


def _prepare_huggingface(tensors: Tensors) -> Tensors:
    """Without a classifier there is no prefix either."""
    if f"{HUGGINGFACE.head}.weight" in tensors:
        return tensors
    for prefix in PREFIXES.values():
        if f"{prefix}{HUGGINGFACE.stem_conv}.weight" in tensors:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _recognise_huggingface(shapes):
    for prefix in ("", *PREFIXES.values()):
        spec = _recognise(shapes, HUGGINGFACE.behind(prefix), last_norm_eps=HUGGINGFACE_EPS)
        if spec is not None:
            return spec
    return None


def _rules_huggingface(spec):
    prefix = PREFIXES[_size(spec).v2] if spec.classes else ""
    return _rules(spec, HUGGINGFACE.behind(prefix))


def _configure_huggingface(spec, config):
    """What no shape says: the eps of the last norm, and that the activation is ours."""
    if "hidden_act" in config and config["hidden_act"] != "gelu":
        raise ValueError(
            f"config.json says hidden_act={config['hidden_act']!r}: encoder.name convnext has "
            f"'gelu' alone"
        )
    if "layer_norm_eps" not in config:
        return spec
    encoder = dict(spec.encoder) | {"last_norm_eps": config["layer_norm_eps"]}
    return dataclasses.replace(spec, encoder=encoder)


def _configure_dinov3(spec, config):
    """Its one eps is of all norms, of which ours have 1e-6."""
    spec = _configure_huggingface(spec, config)
    if spec.encoder.get("last_norm_eps", EPS) != EPS:
        raise ValueError(
            f"config.json says layer_norm_eps={config['layer_norm_eps']}: the norms of a convnext "
            f"have {EPS}"
        )
    return spec


def _files_huggingface(spec):
    size, settings = _size(spec), spec.settings()
    generation = "ConvNextV2" if size.v2 else "ConvNext"
    config = {
        "model_type": generation.lower(),
        "patch_size": settings["patch"],
        "num_stages": len(size.depths),
        "depths": list(size.depths),
        "hidden_sizes": list(size.dims),
        "hidden_act": "gelu",
        "layer_norm_eps": settings["last_norm_eps"],
        "drop_path_rate": settings["drop_path"],
        "image_size": spec.image_size,
    }
    return huggingface_files(spec, generation, config)


def _prepare_huggingface_dinov3(tensors: Tensors) -> Tensors:
    """transformers 5 says "model." in memory, and not in files."""
    if f"model.{HUGGINGFACE_DINOV3.stem_conv}.weight" not in tensors:
        return tensors
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


LAYOUTS = {
    "timm": {"convnext": Layout(_recognise_timm, _rules_timm, files=_files_timm)},
    "torchvision": {
        "convnext": Layout(
            partial(_recognise, names=TORCHVISION), _rules_torchvision, files=lambda spec: {}
        )
    },
    "huggingface": {
        "convnext": Layout(
            _recognise_huggingface,
            _rules_huggingface,
            _prepare_huggingface,
            files=_files_huggingface,
            configure=_configure_huggingface,
        ),
        "convnext:dinov3": Layout(
            partial(_recognise, names=HUGGINGFACE_DINOV3),
            partial(_rules, names=HUGGINGFACE_DINOV3),
            _prepare_huggingface_dinov3,
            configure=_configure_dinov3,
        ),
    },
    "dinov3": {
        "convnext": Layout(
            partial(_recognise, names=FACEBOOK),
            partial(_rules, names=FACEBOOK),
            # DINOv3's `norm` stands there twice.
            ignored=r"^norms\.3\.",
        )
    },
}
