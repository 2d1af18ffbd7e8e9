"""ViT-Ti/4 (64 patches of 4 x 4 pixels) on CIFAR-10, from a folder or archive `split/class/*.jpg`.

    python -m vitjax.main --config configs/cifar10_vit_ti4.py:path=cifar10.tar.xz --workdir runs/x
On a 2-core machine in 15 minutes (two thirds of an epoch, lighter augmentation): add ,minutes
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    path: str = "cifar10.tar.xz"
    minutes: bool = False
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 32 if args.minutes else 512  # small: many updates in little time
    c.epochs = 0.65 if args.minutes else 200

    # 5% of train chooses and reports while training; the test split is touched once, at the end.
    c.data = dict(name="folder", path=args.path, train="train", test="test", minival=0.05)
    c.input = dict(canvas=32)
    mean, std = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
    c.views = dict(size=32, crop="pad", pad=4, flip=True, mean=mean, std=std)
    if not args.minutes:
        c.views.update(color_jitter=0.3, mixup=0.2, cutmix=1.0, erasing=0.1)
    c.eval_views = dict(crop=1.0)

    c.encoder = dict(name="vit", variant="Ti/4", pool="gap", positions="learned")
    c.encoder.scan = not args.minutes  # unrolled, a step is a quarter faster on a CPU
    c.objective = dict(name="supervised", classes=10, label_smoothing=0.1)
    c.optimizer = dict(
        name="adamw",
        lr=3e-4 if args.minutes else 1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_epochs=0.08 if args.minutes else 10),
    )

    c.mesh = dict(replica=1, data=-1, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=20, train_examples=5_000 if args.minutes else 10_000)
    c.evaluators = dict(
        accuracy=dict(), linear=dict(steps=500, batch_size=1024), knn=dict(k=[10, 20])
    )
    c.checkpoint = dict(every_epochs=0.5 if args.minutes else 10, keep=2)
    c.log = dict(every_steps=25 if args.minutes else 50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
    return c
