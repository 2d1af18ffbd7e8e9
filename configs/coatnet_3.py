"""CoAtNet-3 on ImageNet-1k at 224 pixels (arXiv:2106.04803, table 12's recipe as far as it says).

Expect 84.5% top-1 after 300 epochs (cited: the paper, table 4). Not run here: no accelerator was at
hand. No training code was published.
    python -m vitjax.main --config configs/coatnet_3.py --workdir runs/coatnet_3
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 2.39 of 15.75 GiB a chip, 90 ms a
step of 4096 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
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
    c.views = dict(
        size=224,
        crop="resized",
        method="cubic",
        flip=True,
        policy=dict(name="randaugment_tf", layers=2, magnitude=15),
        mixup=0.8,
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="coatnet", variant="3", drop_path=0.7, remat="dots")
    c.objective = dict(name="supervised", classes=1000, label_smoothing=0.1)
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=10_000, final=1e-2),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=20, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, depths=[1, 1, 1, 1], dims=[8, 8, 32, 32], stem=[4, 8])
        c.views.size = 32
    return c
