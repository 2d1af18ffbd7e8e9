"""What PyTorch projects call the parts of a Vision Transformer, and the table of rules from it."""

from typing import NamedTuple

import numpy as np

from vitjax.interop.layout import Spec
from vitjax.interop.rules import (
    CONV,
    LINEAR,
    LINEAR_OUT,
    QKV,
    QKV_BIAS,
    SAME,
    VECTOR,
    Form,
    Rule,
    constant,
    copy_as,
    fused,
)
from vitjax.models.vit import has_class
from vitjax.models.vit_sizes import SIZES, parse
from vitjax.ops.position import sincos_2d

# D width, R registers, h x w grid of patches, L depth.


class Names(NamedTuple):
    """Names without ".weight" and ".bias"; those from `norm1` to `scale2` stand behind `block`,
    which has the number of the block in it. None: the project has no such part.

    body: in front of everything but the head, in files with a head. qkv, qkv_bias: full names of
    one tensor each; else query, key, value. packed: [gate; up] of SwiGLU in one; else gate.
    mask_shape: see rules.copy_as.
    """

    embedding: str
    block: str
    norm1: str
    out: str
    norm2: str
    up: str
    down: str
    norm: str
    head: str | None
    cls: str
    positions: str | None
    body: str = ""
    qkv: str | None = None
    qkv_bias: str | None = None
    query: str | None = None
    key: str | None = None
    value: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    packed: str | None = None
    packed_down: str | None = None
    gate: str | None = None
    scale1: str | None = None
    scale2: str | None = None
    registers: str | None = None
    mask: str | None = None
    mask_shape: tuple = (1, None)
    prefix_norm: str | None = None
    class_row: bool = True  # whether the table of positions always has a row for the class token


TIMM = Names(
    embedding="patch_embed.proj",
    block="blocks.{}.",
    norm1="norm1",
    qkv="attn.qkv.weight",
    qkv_bias="attn.qkv.bias",
    query_norm="attn.q_norm",
    key_norm="attn.k_norm",
    out="attn.proj",
    scale1="ls1.gamma",
    norm2="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    packed="mlp.fc1",
    packed_down="mlp.fc2",
    scale2="ls2.gamma",
    norm="norm",
    head="head",
    cls="cls_token",
    positions="pos_embed",
    registers="reg_token",
    class_row=False,
)
DINOV2 = TIMM._replace(
    query_norm=None,
    key_norm=None,
    packed="mlp.w12",
    packed_down="mlp.w3",
    head=None,
    registers="register_tokens",
    mask="mask_token",
    class_row=True,
)
DINOV3 = DINOV2._replace(
    positions=None,
    packed=None,
    gate="mlp.w1",
    registers="storage_tokens",
    prefix_norm="cls_norm",
)
TORCHVISION = Names(
    embedding="conv_proj",
    block="encoder.layers.encoder_layer_{}.",
    norm1="ln_1",
    qkv="self_attention.in_proj_weight",
    qkv_bias="self_attention.in_proj_bias",
    out="self_attention.out_proj",
    norm2="ln_2",
    up="mlp.0",
    down="mlp.3",
    norm="encoder.ln",
    head="heads.head",
    cls="class_token",
    positions="encoder.pos_embedding",
)
HF_VIT = Names(
    body="vit.",
    embedding="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}.",
    norm1="layernorm_before",
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    out="attention.output.dense",
    norm2="layernorm_after",
    up="intermediate.dense",
    down="output.dense",
    norm="layernorm",
    head="classifier",
    cls="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    mask="embeddings.mask_token",
    mask_shape=(1, 1, None),
)
HF_DINOV2 = HF_VIT._replace(
    body="dinov2.",
    norm1="norm1",
    scale1="layer_scale1.lambda1",
    norm2="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    packed="mlp.weights_in",
    packed_down="mlp.weights_out",
    scale2="layer_scale2.lambda1",
    registers="embeddings.register_tokens",
    mask_shape=(1, None),
)
HF_DINOV3 = Names(
    embedding="embeddings.patch_embeddings",
    block="layer.{}.",
    norm1="norm1",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    out="attention.o_proj",
    scale1="layer_scale1.lambda1",
    norm2="norm2",
    up="mlp.up_proj",
    down="mlp.down_proj",
    gate="mlp.gate_proj",
    scale2="layer_scale2.lambda1",
    norm="norm",
    head=None,
    cls="embeddings.cls_token",
    positions=None,
    registers="embeddings.register_tokens",
    mask="embeddings.mask_token",
    mask_shape=(1, 1, None),
)

# A table of positions [h, w, D] here, [1, h * w, D] there: alone, below a row of the class token,
# below a row that is zero because here the class token has none.
POSITIONS = Form(
    lambda tensor, shapes: (tensor.reshape(shapes[0]),),
    lambda arrays: arrays[0].reshape(1, -1, arrays[0].shape[-1]),
)
CLASS_AND_POSITIONS = Form(
    lambda tensor, shapes: (tensor[:, :1], tensor[:, 1:].reshape(shapes[1])),
    lambda arrays: np.concatenate([arrays[0], POSITIONS.write(arrays[1:])], axis=1),
)
# Written as one token, read as that token at no position: the same sum.
FOLDED = Form(
    lambda tensor, shapes: (tensor.reshape(shapes[0]), np.zeros(shapes[1], tensor.dtype)),
    lambda arrays: arrays[0] + arrays[1],
)
BELOW_ZERO = Form(
    lambda tensor, shapes: (tensor[:, 1:].reshape(shapes[0]),),
    lambda arrays: np.pad(POSITIONS.write(arrays), [(0, 0), (1, 0), (0, 0)]),
)
# The key's third of a fused bias is zero and is no parameter here.
QUERY_VALUE_BIAS = Form(
    lambda tensor, shapes: tuple(
        third.reshape(shape) for third, shape in zip(np.split(tensor, 3)[::2], shapes, strict=True)
    ),
    lambda arrays: np.concatenate(
        [arrays[0].reshape(-1), np.zeros(arrays[0].size, np.float32), arrays[1].reshape(-1)]
    ),
)


def rules(spec: Spec, names: Names, depth: int) -> list[Rule]:
    """The table of a ViT of `depth` blocks; raises ValueError for a part that has no name."""
    settings = spec.settings()
    body = names.body if spec.classes else ""
    outside = [
        pair("encoder/embedding", body + names.embedding, CONV),
        pair("encoder/norm", body + names.norm),
        tokens(spec, settings, names, body),
        pooling(settings, names, body),
    ]
    if settings["prefix_norm"]:
        outside.append(pair("encoder/prefix_norm", body + named(names, "prefix_norm")))
    if spec.classes:
        if spec.hidden:
            raise ValueError(
                f"the layout has no tanh layer before the logits: objective.head_hidden="
                f"{spec.hidden} cannot be written, choose another --to"
            )
        outside.append(pair("head/logits", named(names, "head"), LINEAR))
    inside = [
        rule._replace(
            theirs=tuple(body + names.block.format(i) + rule.theirs for i in range(depth))
        )
        for rule in block(settings, names)
    ]
    return [rule for group in outside for rule in group] + inside


def named(names: Names, part: str) -> str:
    name = getattr(names, part)
    if name is None:
        raise ValueError(f"the layout has no name for the part {part!r}: choose another --to")
    return name


def pair(ours: str, theirs: str, form: Form | None = None) -> list[Rule]:
    """Weight and bias of a layer: `form` for a kernel, None for the scale of a norm."""
    leaf = "scale" if form is None else "kernel"
    return [
        Rule(f"{ours}/{leaf}", f"{theirs}.weight", form or VECTOR),
        Rule(f"{ours}/bias", f"{theirs}.bias", VECTOR),
    ]


def tokens(spec: Spec, settings: dict, names: Names, body: str) -> list[Rule]:
    """Class token, registers, mask token and positions."""
    found = []
    # timm's table would have rows for registers too: the class token takes its position in.
    fold = settings["class_position"] and settings["registers"] and not names.class_row
    if fold:
        ours = ("encoder/cls", "encoder/class_position")
        found.append(Rule(ours, body + names.cls, FOLDED))
    elif has_class(settings["pool"]):
        found.append(Rule("encoder/cls", body + names.cls, SAME))
    if settings["registers"]:
        found.append(Rule("encoder/registers", body + named(names, "registers"), SAME))
    if settings["mask_token"]:
        # A layout without one has no use for it outside training: written nowhere.
        mask = () if names.mask is None else body + names.mask
        found.append(Rule("encoder/mask_token", mask, copy_as(*names.mask_shape)))
    if names.positions is None:
        return found
    place, table = body + names.positions, "encoder/position_embedding"
    if settings["positions"] == "sincos":
        variant = parse(settings["variant"])
        side = spec.image_size // variant.patch
        width = settings["width"] or SIZES[variant.size].width
        fixed = POSITIONS.write([np.asarray(sincos_2d(side, side, width))])
        above = names.class_row and has_class(settings["pool"])
        found.append(constant(place, np.pad(fixed, [(0, 0), (int(above), 0), (0, 0)])))
    elif settings["class_position"] and not fold:
        found.append(Rule(("encoder/class_position", table), place, CLASS_AND_POSITIONS))
    else:
        found.append(Rule(table, place, BELOW_ZERO if names.class_row else POSITIONS))
    return found


def pooling(settings: dict, names: Names, body: str) -> list[Rule]:
    """timm's attention pooling; the only one of these layouts that has it."""
    if settings["pool"] != "map":
        return []
    if names.registers != TIMM.registers:
        raise ValueError("the layout has no attention pooling: encoder.pool='map', use --to timm")
    if settings["activation"] == "swiglu":
        raise ValueError(
            "the layout has no attention pooling with a gate: encoder.activation='swiglu' with "
            "encoder.pool='map' cannot be written"
        )
    ours, theirs = "encoder/attention_pool", body + "attn_pool"
    key, value = f"{ours}/attention/key", f"{ours}/attention/value"
    return [
        Rule(f"{ours}/probe", f"{theirs}.latent", SAME),
        *pair(f"{ours}/attention/query", f"{theirs}.q", LINEAR),
        Rule((f"{key}/kernel", f"{value}/kernel"), f"{theirs}.kv.weight", fused(LINEAR, 2)),
        Rule((f"{key}/bias", f"{value}/bias"), f"{theirs}.kv.bias", fused(VECTOR, 2)),
        *pair(f"{ours}/attention/out", f"{theirs}.proj", LINEAR_OUT),
        *pair(f"{ours}/norm", f"{theirs}.norm"),
        *pair(f"{ours}/mlp/up", f"{theirs}.mlp.fc1", LINEAR),
        *pair(f"{ours}/mlp/down", f"{theirs}.mlp.fc2", LINEAR),
    ]


def block(settings: dict, names: Names) -> list[Rule]:
    """One block; `theirs` without the block's own prefix."""
    ours = "encoder/blocks"
    found = [
        *pair(f"{ours}/norm1", names.norm1),
        *attention(settings, names, f"{ours}/attention"),
        *pair(f"{ours}/norm2", names.norm2),
    ]
    if settings["activation"] != "swiglu":
        found += pair(f"{ours}/mlp/up", names.up, LINEAR)
        found += pair(f"{ours}/mlp/down", names.down, LINEAR)
    elif names.packed is not None:
        for leaf, there, form in (("kernel", "weight", LINEAR), ("bias", "bias", VECTOR)):
            both = (f"{ours}/mlp/gate/{leaf}", f"{ours}/mlp/up/{leaf}")
            found.append(Rule(both, f"{names.packed}.{there}", fused(form, 2)))
        found += pair(f"{ours}/mlp/down", named(names, "packed_down"), LINEAR)
    else:
        found += pair(f"{ours}/mlp/gate", named(names, "gate"), LINEAR)
        found += pair(f"{ours}/mlp/up", names.up, LINEAR)
        found += pair(f"{ours}/mlp/down", names.down, LINEAR)
    if settings["layer_scale"] is not None:
        found.append(Rule(f"{ours}/layer_scale1", named(names, "scale1"), VECTOR))
        found.append(Rule(f"{ours}/layer_scale2", named(names, "scale2"), VECTOR))
    return found


def attention(settings: dict, names: Names, ours: str) -> list[Rule]:
    parts = [f"{ours}/{part}" for part in ("query", "key", "value")]
    biases, found = settings["biases"], pair(f"{ours}/out", names.out, LINEAR_OUT)
    if names.qkv is not None:
        found.append(Rule(tuple(f"{part}/kernel" for part in parts), names.qkv, QKV))
        if biases == "all":
            found.append(
                Rule(tuple(f"{p}/bias" for p in parts), named(names, "qkv_bias"), QKV_BIAS)
            )
        elif biases == "query_value":
            both = tuple(f"{part}/bias" for part in parts[::2])
            found.append(Rule(both, named(names, "qkv_bias"), QUERY_VALUE_BIAS))
    else:
        there = (names.query, names.key, names.value)
        for part, name in zip(parts, there, strict=True):
            kernel, bias = pair(part, name, LINEAR)
            found.append(kernel)
            if biases == "all" or (biases == "query_value" and part != parts[1]):
                found.append(bias)
    if settings["qk_norm"]:
        found += pair(f"{ours}/query_norm", named(names, "query_norm"))
        found += pair(f"{ours}/key_norm", named(names, "key_norm"))
    return found
