"""Data scale against inductive bias on scikit-learn's handwritten digits: 20 to 1,296 images of
8 x 8 pixels, tested on digits of other writers. Nothing to download.

    vitjax sweep --config configs/study_digits.py --workdir runs/study --jobs 2
    vitjax report runs/study
What was found, and on what machine: docs/study.md. Its recipe is also a run of its own:
    python -m vitjax.main --config configs/study_digits.py --workdir runs/study_digits
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    smoke: bool = False


ENCODERS = dict(
    # Two 3x3 convolutions, each with an average pool, then a dense layer; 88 thousand parameters.
    cnn=dict(name="classic", variant="convpool"),
    # Four stages of one block; 7x7 depth-wise kernels see all of an 8 x 8 image.
    convnext=dict(
        name="convnext", variant="atto", depths=(1, 1, 1, 1), dims=(16, 32, 48, 64), patch=1
    ),
    # Patches of 2 x 2 pixels: 16 tokens.
    vit=dict(
        name="vit", variant="Ti/2", width=48, depth=4, mlp=96, heads=3, pool="gap", scan=False
    ),
)


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 64
    c.steps = 300

    # The last fifth of the digits was written by other people than the rest: that is the test. A
    # tenth of the others chooses the rates.
    c.data = dict(name="digits", split_by="writers", minival=0.1)
    c.input = dict(canvas=8, threads=1)
    c.views = dict(size=8, crop="pad", pad=1, flip=False, mean=[0.3] * 3, std=[0.3] * 3)
    c.eval_views = dict(crop=1.0)

    c.encoder = ENCODERS["vit"]
    c.objective = dict(name="supervised", classes=10)
    c.optimizer = dict(
        name="adamw",
        lr=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=15),
    )

    c.evaluators = dict(accuracy=dict(), linear=dict(steps=300, batch_size=64), knn=dict(k=(1, 10)))
    c.checkpoint = dict(keep=1)
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
    return c


def sweep(arg=""):
    args = parse_arg(arg, Args)
    if args.smoke:
        return dict(
            encoders={name: ENCODERS[name] for name in ("cnn", "vit")},
            fractions=(0.05, 0.1),
            seeds=(0,),
            lrs=(3e-3,),
            budgets=dict(steps=dict(steps=3)),
        )
    return dict(
        encoders=ENCODERS,
        # 20, 50, 100, 200, 400, 800 and all 1,296 images.
        fractions=(0.0155, 0.0387, 0.0772, 0.1545, 0.309, 0.617, 1.0),
        seeds=(0, 1, 2),
        lrs=(2e-3, 6e-3),
        budgets=dict(steps=dict(steps=300)),
    )
