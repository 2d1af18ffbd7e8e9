"""Data scale against inductive bias on CIFAR-10, from a folder or archive `split/class/*.jpg`: 450
to 45,000 images, seven encoders from convolution to attention. Planned for a GPU: not run.

    vitjax sweep --config configs/study_cifar10.py:path=cifar10.tar.xz --workdir runs/study_cifar10
    vitjax report runs/study_cifar10
A part for two CPU cores, four thin networks and 1,000 steps: :hours,path=cifar10.tar.xz with
--jobs 2. It ran for two hours beside other work; docs/study.md has what was found.
Published curves to hold the whole against are in arXiv:2103.10697 (ConViT, ImageNet). Its recipe is
also a run of its own:
    python -m vitjax.main --config configs/study_cifar10.py --workdir runs/x
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    path: str = "cifar10.tar.xz"
    hours: bool = False
    smoke: bool = False


ENCODERS = dict(
    cnn=dict(name="classic", variant="convpool"),
    resnet18=dict(name="resnet", variant="18", norm="group", stem="small"),
    convnext=dict(name="convnext", variant="atto", patch=1),
    coatnet=dict(
        name="coatnet", variant="0", depths=(1, 1, 2, 2), dims=(48, 96, 192, 384), stem=(48, 48)
    ),
    convit=dict(name="convit", variant="Ti/4", width=189, heads=9, mlp=756),
    vit=dict(name="vit", variant="Ti/4", pool="gap"),
    mixer=dict(name="mixer", variant="S/4", width=192, depth=12, token_mlp=128, channel_mlp=768),
)
# For two CPU cores: 6 to 9 million multiply-adds an image each.
THIN = dict(
    cnn=ENCODERS["cnn"],
    resnet18=dict(name="resnet", variant="18", width=0.125, stem="small"),
    convit=dict(name="convit", variant="S/4", width=45, depth=4, local=3, mlp=90, heads=9),
    vit=dict(name="vit", variant="Ti/4", width=48, depth=4, mlp=96, heads=3, pool="gap"),
)
for name in ("convit", "vit"):
    THIN[name]["scan"] = False  # unrolled, a step is a quarter faster on a CPU


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 256
    c.steps = 20_000

    c.data = dict(name="folder", path=args.path, train="train", test="test", minival=0.1)
    c.input = dict(canvas=32)
    mean, std = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
    c.views = dict(size=32, crop="pad", pad=4, flip=True, mean=mean, std=std)
    c.eval_views = dict(crop=1.0)

    c.encoder = ENCODERS["vit"]
    c.objective = dict(name="supervised", classes=10, label_smoothing=0.1)
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=1_000),
    )

    c.evaluate = dict(train_examples=10_000)
    c.evaluators = dict(
        accuracy=dict(),
        linear=dict(steps=2_000, batch_size=1024),
        knn=dict(k=(1, 20)),
        bias_attention=dict(),
        bias_equivariance=dict(),
        bias_field=dict(),
        bias_spectrum=dict(),
        shift=dict(),
        shuffle=dict(),
        cue_conflict=dict(),
    )
    c.checkpoint = dict(every_steps=5_000, keep=1)
    c.log = dict(every_steps=100)

    if args.hours:
        c.batch_size, c.steps = 32, 1_000
        c.encoder = THIN["vit"]
        c.optimizer.schedule.warmup_steps = 50
        c.evaluate.train_examples = 5_000
        c.evaluators = dict(
            accuracy=dict(),
            linear=dict(steps=500, batch_size=512),
            knn=dict(k=(1, 20)),
            bias_attention=dict(),
            bias_equivariance=dict(),
            shift=dict(),
        )

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
    return c


def sweep(arg=""):
    args = parse_arg(arg, Args)
    if args.hours:
        return dict(
            encoders=THIN,
            fractions=(0.01, 0.04, 0.16, 0.64),  # a run sees 32,000 images
            seeds=(0, 1, 2),
            lrs=(2e-3, 6e-3),
            budgets=dict(steps=dict(steps=1_000)),
        )
    return dict(
        encoders=ENCODERS,
        fractions=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        seeds=(0, 1, 2),
        lrs=(3e-4, 1e-3, 3e-3),
        budgets=dict(
            steps=dict(steps=20_000),
            flops=dict(steps=20_000, flops_of="vit"),
        ),
    )
