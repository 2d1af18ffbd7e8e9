"""Vision Transformers of PyTorch projects and of big_vision, in and out."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from vitjax.interop import bit, vit_names, vit_npz
from vitjax.interop.layout import HALF, IMAGENET, Layout, Spec, Tensors, blocks_of, require
from vitjax.interop.rules import Rule, Shape
from vitjax.interop.vit_files import huggingface_files, timm_files
from vitjax.interop.vit_names import Names
from vitjax.interop.vit_sizes import encoder_of, shape_of, stem_variant
from vitjax.lookup import lookup
from vitjax.models.vit import has_class

BACKBONE = "patch_embed.backbone."  # timm's ResNet before a hybrid


def describe(shapes: Mapping[str, Shape], names: Names, **numerics) -> Spec | None:
    """What the shapes say of a ViT under these names; None where it is none.

    numerics: settings of the encoder that no shape tells. Raises ValueError for a ViT that ours
    cannot hold.
    """
    head = names.head is not None and f"{names.head}.weight" in shapes
    body = names.body if head else ""
    embedding = f"{body}{names.embedding}.weight"
    first = body + names.block.format(0)
    asked = names.qkv or f"{names.query}.weight"  # the gated blocks of a ConViT have others
    needed = [embedding, f"{first}{names.norm1}.weight", f"{first}{asked}"]
    if names.positions is not None:
        needed.append(body + names.positions)
    if any(name not in shapes for name in needed) or len(shapes[embedding]) != 4:
        return None
    settings = numerics | _parts(shapes, names, body)
    down = names.packed_down if settings["activation"] == "swiglu" else None
    down = f"{first}{down or names.down}.weight"
    if down not in shapes:
        return None
    width, channels, patch, across = shapes[embedding]
    if patch != across:
        raise ValueError(f"{embedding} {shapes[embedding]}: expected square patches")
    depth = blocks_of(shapes, body + names.block + names.norm1 + ".weight")
    hidden = shapes[down][1]
    stem = stem_variant(shapes, BACKBONE, channels)
    if stem:
        patch, settings["stem_standardise"] = stem.patch, "variance"
    classes, read = shapes[f"{names.head}.weight"] if head else (0, width)
    if read == 2 * width:
        settings["pool"] = "cls_gap"
    side = _grid(shapes, names, body, settings)
    encoder = encoder_of(width, depth, hidden, patch, stem, settings)
    return Spec(encoder, classes=classes, image_size=side * patch if side else 224)


def _parts(shapes: Mapping[str, Shape], names: Names, body: str) -> dict:
    """Settings that the presence of a tensor tells."""

    def there(part: str, leaf: str = "") -> bool:
        name = getattr(names, part)
        return name is not None and body + name + leaf in shapes

    def inside(part: str, leaf: str = "") -> bool:
        name = getattr(names, part)
        return name is not None and body + names.block.format(0) + name + leaf in shapes

    settings = {
        "pool": "cls" if there("cls") else "map" if f"{body}attn_pool.latent" in shapes else "gap",
        "layer_scale": 1e-5 if inside("scale1") else None,
        "qk_norm": inside("query_norm", ".weight"),
        "mask_token": there("mask"),
        "prefix_norm": there("prefix_norm", ".weight"),
        "registers": shapes[body + names.registers][1] if there("registers") else 0,
        "positions": "rotary" if names.positions is None else "learned",
    }
    if inside("gate", ".weight") or _packed(shapes, names, body):
        settings["activation"] = "swiglu"
    if names.qkv is None:
        query, key = inside("query", ".bias"), inside("key", ".bias")
        settings["biases"] = "all" if key else "query_value" if query else "none"
    elif not inside("qkv_bias"):
        settings["biases"] = "none"
    return settings


def _packed(shapes: Mapping[str, Shape], names: Names, body: str) -> bool:
    """SwiGLU in one tensor has twice the rows that the next layer has columns."""
    first = body + names.block.format(0)
    up, down = f"{first}{names.packed}.weight", f"{first}{names.packed_down}.weight"
    return up in shapes and down in shapes and shapes[up][0] == 2 * shapes[down][1]


def _grid(shapes: Mapping[str, Shape], names: Names, body: str, settings: dict) -> int:
    """Patches per side of the table of positions, 0 without one; sets class_position."""
    if names.positions is None:
        return 0
    if len(shapes[body + names.positions]) != 3:
        raise ValueError(f"{body}{names.positions} {shapes[body + names.positions]}: expected rows")
    rows = shapes[body + names.positions][1]
    cls = has_class(settings["pool"])
    if cls and (names.class_row or math.isqrt(rows) ** 2 != rows):
        rows -= 1
        settings["class_position"] = True
    side = math.isqrt(rows)
    if side * side != rows:
        raise ValueError(
            f"{body}{names.positions} has {shapes[body + names.positions][1]} rows: expected a "
            f"square grid of patches, with at most one row for the class token"
        )
    return side


def _table(project: str, names: Names, spec: Spec) -> list[Rule]:
    shape = shape_of(spec)
    require(spec, project, local_norm_below=(0,), **SAYS[project])
    stem = []
    if shape.stem is not None:
        if names is not vit_names.TIMM:
            raise ValueError(
                f"{project} has no ResNet before a ViT: encoder.variant="
                f"{spec.settings()['variant']!r}; use --to timm or big_vision"
            )
        require(spec, project, stem_standardise=("variance",))
        stem = bit.postact_rules("encoder/stem", BACKBONE, shape.stem, "timm")
    return vit_names.rules(spec, names, shape.depth) + stem


# What each project's code can be told; the rest is in its names (see vit_names.rules).
EPS = (1e-6, 1e-12)  # alike: variances are near 1
SAYS = {
    "timm": {
        "positions": ("learned", "sincos"),
        "biases": ("all", "none"),
        "norm_eps": EPS,
        "prefix_norm": (False,),
    },
    "torchvision": {
        "pool": ("cls",),
        "positions": ("learned", "sincos"),
        "activation": ("gelu",),
        "biases": ("all",),
        "norm_eps": EPS,
        "prefix_norm": (False,),
    },
    "huggingface": {"pool": ("cls", "cls_gap"), "prefix_norm": (False,)},
    "dinov2": {
        "pool": ("cls", "cls_gap"),
        "positions": ("learned", "sincos"),
        "activation": ("gelu", "swiglu"),
        "biases": ("all", "none"),
        "norm_eps": EPS,
        "qk_norm": (False,),
        "prefix_norm": (False,),
    },
    "dinov3": {},
}


# timm


def _timm(shapes: Mapping[str, Shape]) -> Spec | None:
    # DINOv2's own files have a mask token, registers by another name, or no table of positions.
    own = ("mask_token", "register_tokens", "rope_embed.periods", "blocks.0.mlp.w12.weight")
    if any(name in shapes for name in own):
        return None
    if "pos_embed" not in shapes or "blocks.0.attn.proj.weight" not in shapes:
        return None
    for name, what in (
        ("dist_token", "two class tokens"),
        ("fc_norm.weight", "a norm after the average"),
    ):
        if name in shapes:
            raise ValueError(f"{name}: a ViT with {what} has no counterpart here")
    return describe(shapes, vit_names.TIMM, activation="gelu")


# timm's own functions whose heads or GELU are not those of the size (timm 1.0.31).
TANH = re.compile(
    r"vit_(base_patch32_siglip(_gap)?_256|large_patch16_siglip(_gap)?_512"
    r"|so400m_patch16_siglip.*|giantopt_patch16_siglip.*)"
)
HEADS = {"vit_base_patch16_gap_224": 16}


def _configure_timm(spec: Spec, config: Mapping) -> Spec:
    """What the architecture and its arguments say that no tensor does."""
    settings, name = dict(spec.encoder), str(config.get("architecture", ""))
    given = config["model_args"] if isinstance(config.get("model_args"), Mapping) else {}
    pool = given.get("global_pool", config.get("global_pool"))
    if settings["pool"] == "cls" and pool == "avg":
        raise ValueError(
            "config.json has global_pool='avg', over patches beside a class token: no encoder here "
            "has both and one vector"
        )
    if settings["pool"] == "map" and settings["registers"] and not given.get("pool_include_prefix"):
        raise ValueError(
            "config.json has attention pooling that leaves registers out (pool_include_prefix): "
            "encoder.pool='map' takes them in"
        )
    if name in HEADS:
        settings["heads"] = HEADS[name]
    if "num_heads" in given:
        settings["heads"] = given["num_heads"]
    if settings["activation"] == "gelu":
        layer = given.get("act_layer", "gelu")
        if layer not in ("gelu", "gelu_tanh"):
            raise ValueError(f"config.json has act_layer={layer!r}: expected gelu or gelu_tanh")
        settings["activation"] = "gelu_tanh" if TANH.fullmatch(name) else layer
    if "init_values" in given and settings["layer_scale"] is not None:
        settings["layer_scale"] = given["init_values"]
    return dataclasses.replace(spec, encoder=settings)


def _prepare_timm(tensors: Tensors) -> Tensors:
    """The original MAE has its decoder, and the decoder's mask token, in the same file."""
    if "decoder_embed.weight" not in tensors:
        return tensors
    return {k: v for k, v in tensors.items() if not k.startswith(("decoder_", "mask_token"))}


# torchvision


def _torchvision(shapes: Mapping[str, Shape]) -> Spec | None:
    if "encoder.pos_embedding" not in shapes or "conv_proj.weight" not in shapes:
        return None
    return describe(shapes, vit_names.TORCHVISION, activation="gelu")


def _prepare_torchvision(tensors: Tensors) -> Tensors:
    """Before 0.13 the layers of the MLP were called linear_1 and linear_2."""
    older = {"mlp.linear_1": "mlp.0", "mlp.linear_2": "mlp.3"}
    pattern = re.compile(r"mlp\.linear_[12]")
    return {pattern.sub(lambda m: older[m[0]], name): t for name, t in tensors.items()}


# Hugging Face: four architectures, told apart by what the encoder has.


def _hf_names(spec: Spec) -> Names:
    settings = spec.settings()
    if settings["positions"] == "rotary":
        return vit_names.HF_DINOV3
    if settings["layer_scale"] is None:
        return vit_names.HF_VIT
    if settings["registers"]:
        return vit_names.HF_DINOV2._replace(body="dinov2_with_registers.")
    return vit_names.HF_DINOV2


def _huggingface(shapes: Mapping[str, Shape]) -> Spec | None:
    if "embeddings.patch_embeddings.weight" in shapes:
        return describe(shapes, vit_names.HF_DINOV3, activation="gelu", norm_eps=1e-5)
    for names, eps, resample in (
        (vit_names.HF_VIT, 1e-12, "cubic"),
        (vit_names.HF_DINOV2, 1e-6, "cubic"),
        (vit_names.HF_DINOV2._replace(body="dinov2_with_registers."), 1e-6, "cubic_antialias"),
    ):
        spec = describe(shapes, names, activation="gelu", norm_eps=eps, resample=resample)
        if spec is None:
            continue
        if spec.encoder["registers"]:  # without a head there is no body to tell them apart
            spec = dataclasses.replace(
                spec, encoder=dict(spec.encoder) | {"resample": "cubic_antialias"}
            )
        half = names is vit_names.HF_VIT
        return dataclasses.replace(spec, preprocessing=HALF if half else IMAGENET)
    return None


def _prepare_huggingface(tensors: Tensors) -> Tensors:
    """A body's name stands in front of everything, also where the head is not a classifier; and
    DINOv3 without registers has an empty tensor of them."""
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.size}
    if "classifier.weight" in tensors:
        return tensors
    pattern = re.compile(r"^(vit|dinov2|dinov2_with_registers|dinov3_vit)\.")
    return {pattern.sub("", name): tensor for name, tensor in tensors.items()}


def _configure_huggingface(spec: Spec, config: Mapping) -> Spec:
    """What config.json says that no tensor does."""
    settings, size = dict(spec.encoder), spec.image_size
    if "num_attention_heads" in config:
        settings["heads"] = config["num_attention_heads"]
    if "layer_norm_eps" in config:
        settings["norm_eps"] = config["layer_norm_eps"]
    rotary = settings["positions"] == "rotary"
    if rotary and "rope_theta" in config and config["rope_theta"] != 100.0:
        raise ValueError(f"config.json has rope_theta={config['rope_theta']}: expected 100")
    if not isinstance(config.get("image_size", 0), int) and len(set(config["image_size"])) > 1:
        raise ValueError(f"config.json has image_size={config['image_size']}: expected a square")
    if rotary and isinstance(config.get("image_size"), int):
        size = config["image_size"]
    if "hidden_act" in config and (rotary or settings["activation"] != "swiglu"):
        gated = {"silu": "swiglu"} if settings["activation"] == "swiglu" else {}
        known = gated or {
            "gelu": "gelu",
            "gelu_pytorch_tanh": "gelu_tanh",
            "gelu_new": "gelu_tanh",
        }
        settings["activation"] = lookup(known, config["hidden_act"], "config.json's hidden_act")
    return dataclasses.replace(spec, encoder=settings, image_size=size)


# DINOv2 and DINOv3, as their own repositories save them


def _dinov2(shapes: Mapping[str, Shape]) -> Spec | None:
    own = ("mask_token", "register_tokens", "blocks.0.mlp.w12.weight")
    if "pos_embed" not in shapes or "decoder_embed.weight" in shapes:  # MAE's, which is timm's
        return None
    if not any(name in shapes for name in own):
        return None
    resample = "cubic_antialias" if "register_tokens" in shapes else "cubic_offset"
    return describe(shapes, vit_names.DINOV2, activation="gelu", resample=resample)


def _dinov3(shapes: Mapping[str, Shape]) -> Spec | None:
    if "blocks.0.attn.qkv.weight" not in shapes or "storage_tokens" not in shapes:
        return None
    biases = "query_value" if "blocks.0.attn.qkv.bias" in shapes else "none"
    spec = describe(shapes, vit_names.DINOV3, activation="gelu", norm_eps=1e-5)
    if spec is None:
        return None
    return dataclasses.replace(spec, encoder=dict(spec.encoder) | {"biases": biases})


def _prepare_dinov3(tensors: Tensors) -> Tensors:
    """The mask that zeroes the key's bias is applied here, once."""
    masked = {}
    for name, tensor in tensors.items():
        if name.endswith("qkv.bias") and f"{name}_mask" in tensors:
            tensor = np.nan_to_num(tensor * tensors[f"{name}_mask"])
        if not name.endswith("qkv.bias_mask"):
            masked[name] = tensor
    for name in masked if "storage_tokens" in masked else ():
        if name.endswith("qkv.bias") and np.any(np.split(np.asarray(masked[name]), 3)[1]):
            raise ValueError(
                f"{name} has biases of keys, which DINOv3 masks: no such file is known"
            )
    return masked


LAYOUTS = {
    "timm": {
        "vit": Layout(
            _timm,
            lambda spec: _table("timm", vit_names.TIMM, spec),
            _prepare_timm,
            files=timm_files,
            configure=_configure_timm,
        )
    },
    "torchvision": {
        "vit": Layout(
            _torchvision,
            lambda spec: _table("torchvision", vit_names.TORCHVISION, spec),
            _prepare_torchvision,
            files=lambda spec: {},
        )
    },
    "huggingface": {
        "vit": Layout(
            _huggingface,
            lambda spec: _table("huggingface", _hf_names(spec), spec),
            _prepare_huggingface,
            ignored=r"^pooler\.|^decoder\.",
            files=huggingface_files,
            configure=_configure_huggingface,
        )
    },
    "dinov2": {
        "vit": Layout(
            _dinov2, lambda spec: _table("dinov2", vit_names.DINOV2, spec), files=lambda spec: {}
        )
    },
    "dinov3": {
        "vit": Layout(
            _dinov3,
            lambda spec: _table("dinov3", vit_names.DINOV3, spec),
            _prepare_dinov3,
            ignored=r"rope_embed\.periods|^local_cls_norm\.",
        )
    },
    "big_vision": vit_npz.LAYOUT,
}
