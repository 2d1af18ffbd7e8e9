"""The JSON files beside exported weights: which model they are of, and the images it wants."""

from collections.abc import Mapping
from typing import Any

from vitjax.interop.layout import Spec

RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def timm_files(
    spec: Spec,
    architecture: str,
    features: int,
    arguments: Mapping[str, Any],
    *,
    first_conv: str,
    classifier: str,
    **pretrained,
) -> dict[str, dict]:
    """config.json for timm.create_model(architecture, **model_args), and "local-dir:FOLDER".

    features: width of what the head reads. arguments: of the model, without num_classes.
    first_conv, classifier: names of layers. pretrained: what else timm's pretrained_cfg says.
    """
    images = spec.preprocessing
    return {
        "config.json": {
            "architecture": architecture,
            "num_classes": spec.classes,
            "num_features": features,
            "model_args": {"num_classes": spec.classes, **arguments},
            "pretrained_cfg": {
                "num_classes": spec.classes,
                "input_size": [3, spec.image_size, spec.image_size],
                "mean": list(images.mean),
                "std": list(images.std),
                "crop_pct": images.crop,
                "interpolation": images.resize,
                "first_conv": first_conv,
                "classifier": classifier,
                **pretrained,
            },
        }
    }


def huggingface_files(spec: Spec, name: str, config: Mapping[str, Any]) -> dict[str, dict]:
    """config.json and preprocessor_config.json for transformers' Auto classes.

    name: of the architecture, as "ConvNext". config: what its class of settings takes.
    """
    images, side = spec.preprocessing, spec.image_size
    head = {"num_labels": spec.classes} if spec.classes else {}
    return {
        "config.json": {
            "architectures": [name + ("ForImageClassification" if spec.classes else "Model")],
            "num_channels": 3,
            **config,
            **head,
        },
        "preprocessor_config.json": {
            # This class resizes and crops at any size; others squeeze, or stop cropping at 384.
            "image_processor_type": "BitImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": round(side / images.crop)},
            "resample": RESAMPLE[images.resize],
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(images.mean),
            "image_std": list(images.std),
            "do_convert_rgb": True,
        },
    }
