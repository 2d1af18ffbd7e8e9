"""ResNet-50 (v1.5, BatchNorm) on ImageNet-1k, the classic 100-epoch recipe (arXiv:1706.02677).

Expect 76.3 to 76.7% top-1 (cited: flax's ImageNet example: 76.4 in 4.4 h on a TPU v3-8, 76.7 in
13.2 h on 8 V100 in float32). Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/resnet50.py --workdir runs/resnet50
Others: --config configs/resnet50.py:variant=101
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 0.53 of 15.75 GiB a chip, 12 ms a
step of 1024 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    variant: str = "50"
    res: int = 224
    data: str = "tfds"
    path: str = ""
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 1024
    c.epochs = 100

    # 1% of train is the validation split while training; the published validation set is the test.
    c.data = dict(name=args.data, train="train", minival=0.01)
    if args.data == "tfds":
        c.data.update(dataset="imagenet2012:5.*.*", test="validation")
    else:
        c.data.update(path=args.path, test="val")
    c.input = dict(canvas=512, threads=32)
    c.views = dict(size=args.res, crop="resized", method="cubic", flip=True)
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="resnet", variant=args.variant)
    c.objective = dict(name="supervised", classes=1000)
    # 0.1 per 256 images; L2 on kernels alone.
    c.optimizer = dict(
        name="sgd",
        lr=0.4,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        schedule=dict(name="cosine", warmup_epochs=5),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=10, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, variant="18", width=0.25)
        c.views.size = 32
    return c
