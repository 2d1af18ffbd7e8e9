"""ResNet-152 (v1.5, BatchNorm) on ImageNet-1k, the classic 100-epoch recipe (arXiv:1706.02677).

Expect about 78.3% top-1 (cited: torchvision's IMAGENET1K_V1 weights, 90 epochs of nearly this
recipe). Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/resnet152.py --workdir runs/resnet152
The recipe is that of resnet50.py.
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 1.03 of 15.75 GiB a chip, 31 ms a
step of 1024 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import pathlib

from vitjax.config import open_file

RECIPE = pathlib.Path(__file__).with_name("resnet50.py")


def get_config(arg=""):
    recipe, given = open_file(f"{RECIPE}:variant=152,{arg}")
    return recipe.get_config(given)
