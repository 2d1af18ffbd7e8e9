"""MAE, ViT-B/16 on ImageNet-1k (arXiv:2111.06377).

Expect 68.0% linear after 1600 epochs, and 83.6% fine-tuned (cited: the paper, tables 1d and 3;
about 42 h on 64 V100 for a ViT-L of 800). Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/mae_b16_i1k.py --workdir runs/mae_b16_i1k
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
    c.epochs = 1600

    # 1% of train is the validation split while training; the published validation set is the test.
    c.data = dict(name=args.data, train="train", minival=0.01)
    if args.data == "tfds":
        c.data.update(dataset="imagenet2012:5.*.*", test="validation")
    else:
        c.data.update(path=args.path, test="val")
    c.input = dict(canvas=512, threads=32)
    c.views = dict(size=224, crop="resized", area=[0.2, 1.0], method="cubic", flip=True)
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(name="vit", variant="B/16", pool="cls", positions="sincos", activation="gelu")
    c.objective = dict(name="mae", mask_ratio=0.75)
    # 1.5e-4 * 4096 / 256.
    c.optimizer = dict(
        name="adamw",
        lr=2.4e-3,
        b2=0.95,
        weight_decay=0.05,
        decay=[[r"(kernel|cls|mask_token)$", 1.0]],
        schedule=dict(name="cosine", warmup_epochs=40),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=100, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(linear=dict(steps=2500), knn=dict(k=[10, 20]), monitors=dict())
    c.checkpoint = dict(every_steps=2500, keep=2)
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.encoder.variant = "Ti/4"
        c.views.size = 16
        c.objective.update(decoder_width=16, decoder_depth=1, decoder_heads=2)
    return c
