"""SoViT-400m/14 (arXiv:2305.13035), the shape found for the compute of ViT-g/14, on ImageNet-21k.

No number is known to expect: the paper trains it on JFT-3B, which is not public (90.3% on
ImageNet-1k after fine-tuning at 518 pixels); the recipe is that of vit_g14.py. Not run here: no
accelerator was at hand.
    python -m vitjax.main --config configs/vit_so400m.py --workdir runs/vit_so400m
Needs ImageNet-21k as `vitjax prepare TARS --out data/i21k` writes it (TFDS has none); elsewhere:
:path=DIR.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 2.74 of 15.75 GiB a chip, 104 ms a
step of 4096 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import pathlib

from vitjax.config import open_file

RECIPE = pathlib.Path(__file__).with_name("vit_g14.py")


def get_config(arg=""):
    recipe, given = open_file(f"{RECIPE}:variant=So400m/14,{arg}")
    return recipe.get_config(given)
