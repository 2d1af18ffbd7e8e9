"""Writes recorded/*.npz: what models nobody here wrote give for weights that NumPy draws.

    python tests/interop/record.py        (needs the torch extra)

A file holds the names and shapes of the tensors, the logits (or the tokens after the last norm) and
the output of every stage, so that tests/interop/test_recorded.py needs neither torch nor weights.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import originals
import safetensors.numpy

OUT = Path(__file__).parent / "recorded"
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
HF = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
ATTENDED = {
    "img_size": 32,
    "depths": (1, 1, 2, 1),
    "embed_dim": (8, 32, 32, 64),
    "stem_width": (4, 8),
    "num_classes": 5,
}
CONV = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}


def timm(name, size, **settings):
    """(shapes, size, project, settings of our encoder, its outputs, maps of its outputs)."""
    return of_timm(originals.package("timm").create_model(name, **settings), size, settings)


def of_timm(model, size, settings):
    originals.randomise(model)

    def outputs(x):
        last, maps = model.forward_intermediates(x)
        stem = [model.stem(x)] if hasattr(model, "stem") and len(maps) == 4 else []
        head = model.forward_head(last) if model.num_classes else last
        return {"last": head, "maps": stem + list(maps)}

    heads = {"heads": settings["num_heads"]} if "num_heads" in settings else {}
    return originals.shapes_of(model.state_dict()), size, "timm", heads, outputs, nchw_maps


def mixer(size, **settings):
    make = originals.package("timm").models.mlp_mixer.MlpMixer
    return of_timm(make(img_size=size, **settings), size, {})


def nchw_maps(out):
    return [originals.nhwc(m) for m in out["maps"]]


def resnet(depth, size):
    model = getattr(originals.package("torchvision").models, f"resnet{depth}")(num_classes=5)
    originals.randomise(model)

    def outputs(x):
        stem = x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        stages = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = stage(x)
            stages.append(x)
        return {"last": model.fc(model.avgpool(x).flatten(1)), "maps": [stem, *stages]}

    return originals.shapes_of(model.state_dict()), size, "torchvision", {}, outputs, nchw_maps


def huggingface(kind, size, **settings):
    """Drawn by the names of the file that transformers saves: those in memory are others."""
    transformers = originals.package("transformers")
    make = getattr(transformers, f"{kind}Model")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        config = getattr(transformers, f"{kind}Config")(**HF, **settings)
        make(config).save_pretrained(folder)
        shapes = {k: t.shape for k, t in safetensors.numpy.load_file(file).items()}
        safetensors.numpy.save_file(originals.drawn(shapes), file, {"format": "pt"})
        model = make.from_pretrained(folder).eval()

    def outputs(x):
        out = model(x, output_hidden_states=True)
        return {"last": out["last_hidden_state"], "maps": list(out["hidden_states"][1:])}

    def maps(out):
        """Blocks' outputs without what stands before the patches. DINOv3's last is normed."""
        side = size // settings["patch_size"]
        found = [m[:, -side * side :].reshape(1, side, side, -1) for m in out["maps"]]
        return found[:-1] if kind == "DINOv3ViT" else found

    encoder = {"heads": HF["num_attention_heads"]}
    return shapes, size, "huggingface", encoder, outputs, maps


CASES = {
    "timm_vit": lambda: timm(
        "vit_base_patch16_224", 32, img_size=32, patch_size=8, num_classes=5, **VIT
    ),
    "timm_deit3": lambda: timm(
        "deit3_small_patch16_224", 32, img_size=32, patch_size=8, num_classes=5, **VIT
    ),
    "timm_dinov2_reg4": lambda: timm("vit_small_patch14_reg4_dinov2", 42, img_size=42, **VIT),
    "timm_siglip": lambda: timm("vit_base_patch16_siglip_224", 32, img_size=32, **VIT),
    "timm_convnext": lambda: timm("convnext_tiny", 64, num_classes=5, **CONV),
    "timm_convnextv2": lambda: timm("convnextv2_atto", 64, num_classes=5, **CONV),
    "timm_coatnet": lambda: timm("coatnet_1_224", 32, head_hidden_size=40, **ATTENDED),
    "timm_coatnet_rw": lambda: timm("coatnet_3_rw_224", 32, **ATTENDED),
    "timm_mixer": lambda: mixer(32, patch_size=8, embed_dim=24, num_blocks=2, num_classes=5),
    "torchvision_resnet18": lambda: resnet(18, 40),
    "torchvision_resnet50": lambda: resnet(50, 40),
    "hf_vit": lambda: huggingface("ViT", 32, intermediate_size=40, image_size=32, patch_size=8),
    "hf_dinov2": lambda: huggingface("Dinov2", 28, image_size=28, patch_size=7),
    "hf_dinov3": lambda: huggingface(
        "DINOv3ViT", 32, intermediate_size=40, patch_size=8, num_register_tokens=4
    ),
}


def main():
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CASES:
        shapes, size, project, encoder, outputs, maps = CASES[name]()
        out = originals.theirs(outputs, originals.images(size))
        about = {"project": project, "size": size, "encoder": encoder, "shapes": shapes}
        arrays = {f"map_{i:02d}": m for i, m in enumerate(maps(out))}
        file = OUT / f"{name}.npz"
        np.savez_compressed(file, about=json.dumps(about), last=out["last"], **arrays)
        print(f"{name}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
