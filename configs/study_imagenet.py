"""Data scale against inductive bias on ImageNet-1k: a pod's study, planned and not run. Every cell
is a task of a Slurm array.

    vitjax sweep --config configs/study_imagenet.py --workdir runs/study_imagenet --launcher slurm
    sbatch --nodes=4 --gpus-per-node=8 runs/study_imagenet/array.sh
    vitjax report runs/study_imagenet
The published curve nearest to it is table 2 of arXiv:2103.10697: ConViT-S ahead of DeiT-S by 13.0
points at 5% of the images and 1.5 at all of them, images seen held equal. Its recipe is also a run
of its own:
    python -m vitjax.main --config configs/study_imagenet.py --workdir runs/x
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    smoke: bool = False


ENCODERS = dict(
    resnet50=dict(name="resnet", variant="50", norm="group"),
    convnext=dict(name="convnext", variant="T", drop_path=0.1),
    coatnet=dict(name="coatnet", variant="0", drop_path=0.1),
    vit=dict(name="vit", variant="S/16", pool="gap", positions="sincos", drop_path=0.1),
    mixer=dict(name="mixer", variant="S/16", drop_path=0.1),
)


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 1024
    c.steps = 112_600  # 90 epochs of all images

    # A hundredth of train chooses the rates; TFDS's validation split is the test.
    c.data = dict(
        name="tfds", dataset="imagenet2012:5.*.*", train="train", test="validation", minival=0.01
    )
    c.input = dict(canvas=512, threads=32)
    c.views = dict(
        size=224,
        crop="resized",
        area=[0.08, 1.0],
        flip=True,
        policy=dict(name="randaugment_tf", layers=2, magnitude=10),
        mixup=0.2,
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = ENCODERS["vit"]
    c.objective = dict(name="supervised", classes=1000, label_smoothing=0.1)
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=5_600),
    )

    c.evaluate = dict(train_examples=128_000)
    c.evaluators = dict(accuracy=dict(), linear=dict(), knn=dict(k=(10, 20)))
    c.checkpoint = dict(every_steps=2_500, keep=1)
    c.log = dict(every_steps=100)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.views.size = 32
    return c


def sweep(arg=""):
    parse_arg(arg, Args)
    return dict(
        encoders=ENCODERS,
        fractions=(0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 1.0),
        seeds=(0, 1, 2),
        lrs=(3e-4, 1e-3, 3e-3),
        budgets=dict(
            steps=dict(steps=112_600),
            flops=dict(steps=112_600, flops_of="vit"),
        ),
    )
