"""Data scale against inductive bias on `shapes`: 100 to 95,000 drawn images of 32 x 32 pixels,
whose class is told by shape alone. Nothing to download. Planned for a GPU: not run.

    vitjax sweep --config configs/study_shapes.py --workdir runs/study_shapes
    vitjax report runs/study_shapes
A part for two CPU cores, three thin networks, 450 to 7,200 images and 1,200 steps: :hours, with
--jobs 2. Run: docs/study.md.
Its recipe is also a run of its own:
    python -m vitjax.main --config configs/study_shapes.py --workdir runs/x
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    examples: int = 100_000  # :hours has 8,000
    hours: bool = False
    smoke: bool = False


ENCODERS = dict(
    resnet=dict(name="resnet", variant="18", norm="group", width=0.5, stem="small"),
    convnext=dict(name="convnext", variant="atto", patch=1),
    coatnet=dict(
        name="coatnet", variant="0", depths=(1, 1, 2, 2), dims=(32, 64, 128, 256), stem=(32, 32)
    ),
    convit=dict(name="convit", variant="Ti/4", width=189, depth=6, local=5, heads=9, mlp=756),
    vit=dict(name="vit", variant="Ti/4", depth=6, pool="gap"),
    mixer=dict(name="mixer", variant="S/4", width=192, depth=6, token_mlp=128, channel_mlp=768),
)
# For two CPU cores, those of study_cifar10: 6 to 9 million multiply-adds an image each.
THIN = dict(
    resnet=dict(name="resnet", variant="18", width=0.125, stem="small"),
    convit=dict(name="convit", variant="S/4", width=45, depth=4, local=3, mlp=90, heads=9),
    vit=dict(name="vit", variant="Ti/4", width=48, depth=4, mlp=96, heads=3, pool="gap"),
)
for name in ("convit", "vit"):
    THIN[name]["scan"] = False  # unrolled, a step is a quarter faster on a CPU


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 128
    c.steps = 5_000

    # A twentieth of train chooses the rates; the test split is as large as all of train.
    c.data = dict(name="shapes", size=32, examples=args.examples, texture="random", minival=0.05)
    c.input = dict(canvas=32)
    c.views = dict(size=32, crop="pad", pad=2, flip=True, mean=[0.5] * 3, std=[0.25] * 3)
    c.eval_views = dict(crop=1.0)

    c.encoder = ENCODERS["vit"]
    c.objective = dict(name="supervised", classes=10, label_smoothing=0.1)
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=250),
    )

    c.evaluate = dict(train_examples=10_000, sample_examples=500)
    c.evaluators = dict(
        accuracy=dict(),
        linear=dict(steps=1000, batch_size=256),
        knn=dict(k=(1, 20)),
        bias_attention=dict(),
        bias_equivariance=dict(),
        bias_field=dict(),
        bias_spectrum=dict(),
        shift=dict(),
        shuffle=dict(),
        cue_conflict=dict(),
    )
    c.checkpoint = dict(every_steps=1_000, keep=1)
    c.log = dict(every_steps=100)

    if args.hours:
        c.batch_size, c.steps = 32, 1_200
        c.data.examples, c.data.minival = 8_000, 0.1
        c.encoder = THIN["vit"]
        c.optimizer.schedule.warmup_steps = 60
        c.evaluate.train_examples = 5_000
        c.evaluators = dict(
            accuracy=dict(),
            linear=dict(steps=500, batch_size=512),
            knn=dict(k=(1, 20)),
            bias_attention=dict(),
            bias_equivariance=dict(),
            shift=dict(),
            cue_conflict=dict(),
        )

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.data = dict(name="shapes", size=16, examples=200)
        c.input = dict(canvas=16)
    return c


def sweep(arg=""):
    if parse_arg(arg, Args).hours:
        return dict(
            encoders=THIN,
            fractions=(0.0625, 0.25, 1.0),  # of 7,200; a run sees 38,400 images
            seeds=(0, 1, 2),
            lrs=(2e-3, 6e-3),
            budgets=dict(steps=dict(steps=1_200)),
        )
    return dict(
        encoders=ENCODERS,
        # Of 95,000: 100 to all of them.
        fractions=(0.00105, 0.0032, 0.0105, 0.032, 0.105, 0.32, 1.0),
        seeds=(0, 1, 2),
        lrs=(3e-4, 1e-3, 3e-3),
        budgets=dict(
            steps=dict(steps=5_000),
            flops=dict(steps=5_000, flops_of="vit"),
        ),
    )
