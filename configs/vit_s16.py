"""ViT-S/16 on ImageNet-1k from scratch, after "Better plain ViT baselines" (arXiv:2205.01580).

Expect 76.5% top-1 after 90 epochs, 80.0% after 300 (cited: the paper and big_vision's vit_s16_i1k,
which took 6-7 h for 90 epochs on a TPU v3-8). Not run here: no accelerator was at hand. What
differs from that recipe: evaluation resizes with an antialiased cubic filter, and mixup's partner
is the next image of the global batch.
    python -m vitjax.main --config configs/vit_s16.py --workdir runs/vit_s16
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    variant: str = "S/16"
    res: int = 224
    data: str = "tfds"
    path: str = ""
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 1024
    c.epochs = 90

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
        antialias=False,
        flip=True,
        policy=dict(name="randaugment_tf", layers=2, magnitude=10),
        mixup=0.2,
        mean=half,
        std=half,
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="vit", variant=args.variant, pool="gap", positions="sincos")
    c.objective = dict(name="supervised", classes=1000, loss="softmax", head_hidden=384)
    # big_vision's lr 1e-3 with decoupled decay 1e-4 is AdamW's 0.1.
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

    c.evaluate = dict(every_epochs=10, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.views.size = 32
    return c
