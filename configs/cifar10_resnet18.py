"""ResNet-18 (3 x 3 stem) on CIFAR-10, from the folder or archive `split/class/*.jpg`.

    python -m vitjax.main --config configs/cifar10_resnet18.py:path=cifar10.tar.xz --workdir runs/x
On a 2-core machine in 15 minutes (a quarter of the channels, 4 epochs): add ,minutes
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
    c.batch_size = 128
    c.epochs = 4 if args.minutes else 100

    # 5% of train chooses and reports while training; the test split is touched once, at the end.
    c.data = dict(name="folder", path=args.path, train="train", test="test", minival=0.05)
    c.input = dict(canvas=32)
    mean, std = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
    c.views = dict(size=32, crop="pad", pad=4, flip=True, mean=mean, std=std)
    c.eval_views = dict(crop=1.0)

    c.encoder = dict(name="resnet", variant="18", stem="small", width=0.25 if args.minutes else 1.0)
    c.objective = dict(name="supervised", classes=10, label_smoothing=0.1)
    c.optimizer = dict(
        name="sgd",
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        schedule=dict(name="cosine", warmup_epochs=1),
    )

    c.mesh = dict(replica=1, data=-1, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=2 if args.minutes else 20, train_examples=10_000)
    c.evaluators = dict(
        accuracy=dict(), linear=dict(steps=500, batch_size=1024), knn=dict(k=[10, 20])
    )
    c.checkpoint = dict(every_epochs=1 if args.minutes else 10, keep=2)
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=0.25)
    return c
