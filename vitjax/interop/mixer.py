"""MLP-Mixer as timm and big_vision name it."""

import math
import re

from vitjax.interop.beside import timm_files
from vitjax.interop.layout import HALF, Layout, Spec, Tensors, blocks_of, require
from vitjax.interop.rules import CONV, LINEAR, SAME, VECTOR, Rule
from vitjax.models.mixer import SIZES, Size

# D width, P patch side, N tokens, T and C hidden widths of the two MLPs.

BLOCK = (  # ours, timm's, big_vision's, the leaf beside the bias
    ("norm1", "norm1", "LayerNorm_0", "scale"),
    ("token_mlp/up", "mlp_tokens.fc1", "token_mixing/Dense_0", "kernel"),
    ("token_mlp/down", "mlp_tokens.fc2", "token_mixing/Dense_1", "kernel"),
    ("norm2", "norm2", "LayerNorm_1", "scale"),
    ("channel_mlp/up", "mlp_channels.fc1", "channel_mixing/Dense_0", "kernel"),
    ("channel_mlp/down", "mlp_channels.fc2", "channel_mixing/Dense_1", "kernel"),
)


def _each(names, suffix):
    """The suffix behind a name, or behind each of a tuple."""
    return names + suffix if isinstance(names, str) else tuple(name + suffix for name in names)


def _spec(size, patch, tokens, classes, activation):
    """What the shapes say. The published weights want pixels in [-1, 1]."""
    grid = math.isqrt(tokens)
    if grid * grid != tokens:
        raise ValueError(f"token mixing of {tokens} patches: only square images are supported")
    encoder = {"name": "mixer", "activation": activation}
    named = [name for name, known in SIZES.items() if known == size]
    if named:
        encoder["variant"] = f"{named[0]}/{patch}"
    else:
        encoder |= {"variant": f"S/{patch}", **size._asdict()}
    return Spec(encoder, classes, image_size=grid * patch, preprocessing=HALF)


def _size(spec: Spec) -> tuple[Size, int]:
    """(the numbers of an encoder, its patch side)."""
    have = spec.settings()
    name, _, patch = have["variant"].partition("/")
    given = {field: have[field] for field in Size._fields if have[field] is not None}
    return SIZES[name]._replace(**given), int(patch)


def _require(spec, layout, activation):
    require(spec, layout, activation=(activation,))
    if spec.hidden:
        raise ValueError(
            f"{layout} has no mixer with a hidden layer in its head, this one has "
            f"objective.head_hidden={spec.hidden}: give another --to"
        )


def _timm_recognise(shapes):
    stem, up, down, channel = (
        shapes.get(name)
        for name in (
            "stem.proj.weight",
            "blocks.0.mlp_tokens.fc1.weight",
            "blocks.0.mlp_tokens.fc2.weight",
            "blocks.0.mlp_channels.fc1.weight",
        )
    )
    if None in (stem, up, down, channel) or down != up[::-1]:  # gated mixers have halves there
        return None
    depth = blocks_of(shapes, "blocks.{}.mlp_tokens.fc1.weight")
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    size = Size(stem[0], depth, up[0], channel[0])
    return _spec(size, stem[-1], up[1], classes, "gelu")


def _timm_rules(spec):
    _require(spec, "timm", "gelu")
    forms = {"kernel": LINEAR, "scale": VECTOR, "bias": VECTOR}

    def rules(ours, theirs, kind):
        return [
            Rule(f"{ours}/{kind}", _each(theirs, ".weight"), forms[kind]),
            Rule(f"{ours}/bias", _each(theirs, ".bias"), VECTOR),
        ]

    table = [Rule("encoder/embedding/kernel", "stem.proj.weight", CONV)]
    table += [Rule("encoder/embedding/bias", "stem.proj.bias", VECTOR)]
    table += rules("encoder/norm", "norm", "scale")
    for ours, theirs, _, kind in BLOCK:
        names = tuple(f"blocks.{i}.{theirs}" for i in range(_size(spec)[0].depth))
        table += rules(f"encoder/blocks/{ours}", names, kind)
    return table + (rules("head/logits", "head", "kernel") if spec.classes else [])


def _timm_files(spec):
    """timm has a function for each size and patch, which takes no other width, depth or patch."""
    size, patch = _size(spec)
    named = [
        f"mixer_{name.lower()}{patch}_224"
        for name, known in SIZES.items()
        if known == size and name != "H" and patch in (16, 32)
    ]
    if not named:
        raise ValueError(
            f"timm has no mixer of {size} and patch {patch}, only encoder.variant S, B or L with "
            f"patch 16 or 32: give another --to"
        )
    return timm_files(
        spec,
        named[0],
        size.width,
        {"img_size": spec.image_size},
        first_conv="stem.proj",
        classifier="head",
        fixed_input_size=True,
    )


_OLD = re.compile(
    r"Mixer/encoderblock_(\d+)/(LayerNorm|(?:token|channel)_mixing_phase)_(\d+)/(\w+)"
)
_ROOTS = ("params/", "opt/target/")


def _big_vision_prepare(tensors: Tensors) -> Tensors:
    """The tree inside a training state, and the names of the files that the paper came with:
    Mixer/encoder_norm, embedding, Mixer/encoderblock_{i}/token_mixing_phase_0/kernel1 and on."""
    for root in _ROOTS:
        if any(name.startswith((f"{root}MixerBlock_0/", f"{root}Mixer/")) for name in tensors):
            inside = {n: t for n, t in tensors.items() if n.startswith(root)}
            tensors = {n.removeprefix(root): t for n, t in inside.items()}
            break
    if "Mixer/encoder_norm/scale" not in tensors:
        return tensors
    norms: dict[str, list[int]] = {}  # numbered by block, or by place among all modules of it
    for name in tensors:
        match = _OLD.fullmatch(name)
        if match and match[2] == "LayerNorm":
            norms[match[1]] = sorted({*norms.get(match[1], []), int(match[3])})

    def rename(name, tensor):
        match = _OLD.fullmatch(name)
        if match is None:
            new = re.sub(r"^Mixer/encoder_norm/", "pre_head_layer_norm/", name)
            return re.sub(r"^embedding/", "stem/", new), tensor
        block, module, number, leaf = match.groups()
        if module == "LayerNorm":
            place = norms[block].index(int(number))
            return f"MixerBlock_{block}/LayerNorm_{place}/{leaf}", tensor
        dense = f"Dense_{int(leaf[-1]) - 1}/{leaf[:-1]}"  # kernel1 -> Dense_0/kernel
        return f"MixerBlock_{block}/{module.removesuffix('_phase')}/{dense}", tensor.squeeze()

    return dict(rename(name, tensor) for name, tensor in tensors.items())


def _big_vision_recognise(shapes):
    stem, token, channel = (
        shapes.get(name)
        for name in (
            "stem/kernel",
            "MixerBlock_0/token_mixing/Dense_0/kernel",
            "MixerBlock_0/channel_mixing/Dense_0/kernel",
        )
    )
    if None in (stem, token, channel):
        return None
    depth = blocks_of(shapes, "MixerBlock_{}/token_mixing/Dense_0/kernel")
    classes = shapes["head/kernel"][-1] if "head/kernel" in shapes else 0
    size = Size(stem[-1], depth, token[1], channel[1])
    return _spec(size, stem[0], token[0], classes, "gelu_tanh")


def _big_vision_rules(spec):
    _require(spec, "big_vision", "gelu_tanh")

    def rules(ours, theirs, kind):
        return [Rule(f"{ours}/{k}", _each(theirs, f"/{k}"), SAME) for k in (kind, "bias")]

    table = rules("encoder/embedding", "stem", "kernel")
    table += rules("encoder/norm", "pre_head_layer_norm", "scale")
    for ours, _, theirs, kind in BLOCK:
        names = tuple(f"MixerBlock_{i}/{theirs}" for i in range(_size(spec)[0].depth))
        table += rules(f"encoder/blocks/{ours}", names, kind)
    return table + (rules("head/logits", "head", "kernel") if spec.classes else [])


LAYOUTS = {
    "timm": {"mixer": Layout(_timm_recognise, _timm_rules, files=_timm_files)},
    "big_vision": {
        "mixer": Layout(
            _big_vision_recognise,
            _big_vision_rules,
            prepare=_big_vision_prepare,
            files=lambda spec: {},
        )
    },
}
