"""SimCLR, ResNet-50 on ImageNet-1k (arXiv:2002.05709).

Expect 69.3% linear after 1000 epochs of batches of 4096 (cited: the paper, table 6). Not run here:
no accelerator was at hand. What differs: the paper's LARS is LAMB here (arXiv:1904.00962), and the
head has LayerNorm where its code has BatchNorm.
    python -m vitjax.main --config configs/simclr_r50_i1k.py --workdir runs/simclr_r50_i1k
Needs imagenet2012 prepared by TFDS as ArrayRecord; :data=folder,path=DIR takes split/class/*.JPEG.
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
    c.epochs = 1000

    # 1% of train is the validation split while training; the published validation set is the test.
    c.data = dict(name=args.data, train="train", minival=0.01)
    if args.data == "tfds":
        c.data.update(dataset="imagenet2012:5.*.*", test="validation")
    else:
        c.data.update(path=args.path, test="val")
    c.input = dict(canvas=512, threads=32)
    c.views = dict(
        name="multicrop",
        size=224,
        local_crops=0,
        global_area=[0.08, 1.0],
        color_jitter=[0.8, 0.8, 0.8, 0.2],
        jitter=0.8,
        grey=0.2,
        blur=[0.5, 0.5, 0.0],
        blur_taps=23,
        blur_sigma=[0.1, 2.0],
        solarize=[0.0, 0.0, 0.0],
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="resnet", variant="50")
    c.objective = dict(name="simclr", temperature=0.1, head_features=128)
    c.optimizer = dict(
        name="lamb",
        lr=5e-3,
        weight_decay=1e-6,
        schedule=dict(name="cosine", warmup_epochs=10),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=50, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(linear=dict(steps=2500), knn=dict(k=[10, 20]), monitors=dict())
    c.checkpoint = dict(every_steps=2500, keep=2)
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=0.0625, variant="18", stem="small")
        c.views.update(size=16, blur_taps=3)
        c.objective.head_hidden = 32
    return c
