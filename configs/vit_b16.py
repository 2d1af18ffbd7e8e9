"""ViT on ImageNet-1k from scratch with AugReg's medium augmentation (arXiv:2106.10270).

Expect 79.7% top-1 for B/16 after 300 epochs (cited: scenic's table for this recipe; big_vision's
authors say around 79). Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/vit_b16.py --workdir runs/vit_b16
Others: --config configs/vit_b16.py:variant=L/16,res=384
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 0.73 of 15.75 GiB a chip, 30 ms a
step of 4096 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import dataclasses
import math

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    variant: str = "B/16"
    res: int = 224
    data: str = "tfds"
    path: str = ""
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 4096
    c.epochs = 300

    # 1% of train is the validation split while training; the published validation set is the test.
    c.data = dict(name=args.data, train="train", minival=0.01)
    if args.data == "tfds":
        c.data.update(dataset="imagenet2012:5.*.*", test="validation")
    else:
        c.data.update(path=args.path, test="val")
    c.input = dict(canvas=512, threads=32)
    half = [0.5, 0.5, 0.5]  # pixels to [-1, 1]
    c.views = dict(
        size=args.res,
        crop="resized",
        area=[0.05, 1.0],
        flip=True,
        policy=dict(name="randaugment_tf", layers=2, magnitude=15),
        mixup=0.5,
        mean=half,
        std=half,
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(
        name="vit",
        variant=args.variant,
        pool="cls",
        positions="learned",
        dropout=0.1,
        drop_path=0.1,
        remat="dots",
    )
    # The bias starts each class at probability 1/1000, where sigmoid losses begin.
    c.objective = dict(name="supervised", classes=1000, loss="sigmoid", head_bias=-math.log(1000))
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.1,
        mu_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=10_000),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=20, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.views.size = 32
    return c
