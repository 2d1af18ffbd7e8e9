"""ViT-H/14 on ImageNet-1k, DeiT III's 400-epoch recipe at 154 pixels (arXiv:2204.07118, table 1).

Expect 85.1% top-1 after its 20 epochs of fine-tuning at 224 (cited: deit3-jax, in 19 h 10 min on a
TPU v4-64; the paper has 85.1%, too, at 160 pixels). Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/vit_h14.py --workdir runs/vit_h14
The recipe is that of vit_l16.py, with the numbers below.
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 1.61 of 15.75 GiB a chip, 44 ms a
step of 2048 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import pathlib

from vitjax.config import open_file

RECIPE = pathlib.Path(__file__).with_name("vit_l16.py")


def get_config(arg=""):
    recipe, given = open_file(f"{RECIPE}:variant=H/14,res=154,drop_path=0.5,{arg}")
    return recipe.get_config(given)
