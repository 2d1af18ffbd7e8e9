"""The JSON files that lie beside exported weights of a ViT."""

from vitjax.interop import beside
from vitjax.interop.layout import Spec
from vitjax.interop.vit_sizes import shape_of
from vitjax.models.vit import has_class


def timm_files(spec: Spec) -> dict[str, dict]:
    """config.json for timm.create_model(architecture, **model_args)."""
    settings, shape = spec.settings(), shape_of(spec)
    swiglu = settings["activation"] == "swiglu"
    if settings["pool"] == "cls_gap" and spec.classes:
        raise ValueError(
            "timm has no ViT whose head reads class token and mean: encoder.pool='cls_gap'; use "
            "--to huggingface"
        )
    if swiglu and settings["layer_scale"] is None:
        raise ValueError(
            "timm has no ViT with encoder.activation='swiglu' and no encoder.layer_scale: give "
            "another --to"
        )
    pools = {"gap": "avg", "cls": "token", "cls_gap": "token", "map": "map"}
    arguments = {
        "img_size": spec.image_size,
        "patch_size": 1 if shape.stem else shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp * (2 if swiglu else 1) / shape.width,
        "qkv_bias": settings["biases"] == "all",
        "qk_norm": settings["qk_norm"],
        "init_values": settings["layer_scale"],
        "class_token": has_class(settings["pool"]),
        "global_pool": pools[settings["pool"]],
        "fc_norm": False,
        "pool_include_prefix": settings["pool"] == "map",
        "no_embed_class": not settings["class_position"] or settings["registers"] > 0,
        "reg_tokens": settings["registers"],
    }
    if settings["activation"] == "gelu_tanh":
        arguments["act_layer"] = "gelu_tanh"
    architecture = "vit_base_patch16_224"
    if swiglu:  # the packed layer is no argument in JSON: from a model that has it
        architecture = "vit_giant_patch14_dinov2"
    elif shape.stem is not None:
        architecture = "vit_small_r26_s32_224" if len(shape.stem) == 4 else "vit_base_r50_s16_224"
        del arguments["patch_size"]
    return beside.timm_files(
        spec,
        architecture,
        shape.width,
        arguments,
        first_conv="patch_embed.proj",
        classifier="head",
    )


def huggingface_files(spec: Spec) -> dict[str, dict]:
    """config.json and preprocessor_config.json for AutoModel and AutoImageProcessor."""
    settings, shape = spec.settings(), shape_of(spec)
    config = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.mlp,
        "hidden_act": "gelu_pytorch_tanh" if settings["activation"] == "gelu_tanh" else "gelu",
        "layer_norm_eps": settings["norm_eps"],
        "image_size": spec.image_size,
        "patch_size": shape.patch,
    }
    if not has_class(settings["pool"]):
        raise ValueError(
            f"huggingface's ViTs have a class token: encoder.pool={settings['pool']!r} cannot be "
            f"written; use --to timm"
        )
    if settings["positions"] == "rotary":
        name, kind = "DINOv3ViT", _dinov3(settings, spec)
    elif settings["layer_scale"] is None:
        name, kind = "ViT", _vit(settings)
    else:
        name = "Dinov2WithRegisters" if settings["registers"] else "Dinov2"
        kind = _dinov2(settings, spec, name, shape.width, shape.mlp)
    return beside.huggingface_files(spec, name, config | kind)


def _vit(settings: dict) -> dict:
    if settings["biases"] != "all" or settings["qk_norm"] or settings["registers"]:
        raise ValueError(
            "huggingface's ViT has all biases, no qk_norm and no registers: encoder.biases="
            f"{settings['biases']!r}, qk_norm={settings['qk_norm']}, registers="
            f"{settings['registers']} cannot be written; use --to timm"
        )
    if settings["pool"] != "cls":
        raise ValueError(
            "huggingface's ViT reads the class token alone: encoder.pool='cls_gap' cannot be "
            "written without encoder.layer_scale"
        )
    return {"model_type": "vit", "qkv_bias": True}


def _dinov2(settings: dict, spec: Spec, name: str, width: int, mlp: int) -> dict:
    swiglu = settings["activation"] == "swiglu"
    if settings["biases"] == "query_value":
        raise ValueError(
            f"huggingface's {name} has all biases or none: encoder.biases='query_value' cannot be "
            f"written; give another --to"
        )
    if spec.classes and settings["pool"] != "cls_gap":
        raise ValueError(
            f"huggingface's {name} classifies by class token and mean: encoder.pool="
            f"{settings['pool']!r} cannot be written with a head; use --to timm"
        )
    # Its SwiGLU is two thirds as wide, rounded up to 8, as DINOv2's.
    ratio = round(mlp / width * 1.5) if swiglu else mlp // width
    hidden = -(-int(width * ratio * 2 / 3) // 8) * 8 if swiglu else width * ratio
    if hidden != mlp:
        raise ValueError(f"huggingface's {name} has no MLP of width {mlp} for width {width}")
    config = {
        "model_type": "dinov2_with_registers" if settings["registers"] else "dinov2",
        "mlp_ratio": ratio,
        "qkv_bias": settings["biases"] == "all",
        "layerscale_value": settings["layer_scale"],
        "use_swiglu_ffn": swiglu,
    }
    registers = {"num_register_tokens": settings["registers"]} if settings["registers"] else {}
    return config | registers


def _dinov3(settings: dict, spec: Spec) -> dict:
    if spec.classes or settings["pool"] != "cls" or settings["layer_scale"] is None:
        raise ValueError(
            "huggingface's DINOv3ViT has no classifier, pools by its class token and has "
            f"LayerScale: not {spec.classes} classes, encoder.pool={settings['pool']!r}, "
            f"layer_scale={settings['layer_scale']}; give another --to"
        )
    gated = {"use_gated_mlp": True, "hidden_act": "silu"}
    return (gated if settings["activation"] == "swiglu" else {"use_gated_mlp": False}) | {
        "model_type": "dinov3_vit",
        "query_bias": settings["biases"] != "none",
        "key_bias": settings["biases"] == "all",
        "value_bias": settings["biases"] != "none",
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": settings["layer_scale"],
        "num_register_tokens": settings["registers"],
        "rope_theta": 100.0,
    }
