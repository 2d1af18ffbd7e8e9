"""ConvNeXt-L on ImageNet-1k (arXiv:2201.03545, appendix A.1; the published recipe).

Expect 84.3% top-1 after 300 epochs, with the weight average (cited: the paper, table 1). Not run
here: no accelerator was at hand.
    python -m vitjax.main --config configs/convnext_l.py --workdir runs/convnext_l
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 1.87 of 15.75 GiB a chip, 60 ms a
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
        policy=dict(name="randaugment_timm", layers=2, magnitude=9, std=0.5),
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="convnext", variant="L", drop_path=0.5, remat="dots")
    c.objective = dict(name="supervised", classes=1000, label_smoothing=0.1, ema_decay=0.9999)
    c.optimizer = dict(
        name="adamw",
        lr=4e-3,
        weight_decay=0.05,
        schedule=dict(name="cosine", warmup_epochs=20, final=2.5e-4),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=20, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, depths=[1, 1, 1, 1], dims=[4, 8, 12, 16])
        c.views.size = 32
    return c
