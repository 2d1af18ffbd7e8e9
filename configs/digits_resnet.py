"""A small ResNet on scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels).

    python -m vitjax.main --config configs/digits_resnet.py --workdir runs/digits_resnet
New writers in the test split instead of a random fifth:
    --config configs/digits_resnet.py:split=writers
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    split: str = "random"
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 128
    c.epochs = 60

    c.data = dict(name="digits", split_by=args.split, minival=0.1)
    c.input = dict(canvas=8)
    c.views = dict(size=8, crop="pad", pad=1, flip=False, mean=(0.3,) * 3, std=(0.3,) * 3)
    c.eval_views = dict(crop=1.0)

    c.encoder = dict(name="resnet", variant=18, width=0.25, stem="small")
    c.objective = dict(name="supervised", classes=10, label_smoothing=0.1)
    c.optimizer = dict(
        name="sgd",
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        schedule=dict(name="cosine", warmup_epochs=5),
    )

    c.mesh = dict(replica=1, data=-1, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=15)
    c.evaluators = dict(
        accuracy=dict(), linear=dict(steps=1000, batch_size=256), knn=dict(k=(10, 20))
    )
    c.checkpoint = dict(every_epochs=15, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=25)

    if args.smoke:
        smoke(c, width=0.25)
    return c
