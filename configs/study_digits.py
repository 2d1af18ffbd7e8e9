"""Data scale against inductive bias on scikit-learn's handwritten digits: 20 to 1,296 images of
8 x 8 pixels, tested on digits of other writers. Nothing to download.

    vitjax sweep --config configs/study_digits.py --workdir runs/study --jobs 2
    vitjax report runs/study
The method: docs/study.md. Its recipe is also a run of its own:
    python -m vitjax.main --config configs/study_digits.py --workdir runs/study_digits
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    mixer: bool = False  # a fourth encoder, a third more time
    smoke: bool = False


# From convolution to attention, each with 70 to 90 thousand parameters; all but the first cut the
# image into 16 patches of 2 x 2 pixels. ConViT's first three blocks start as 3 x 3 taps.
ENCODERS = dict(
    cnn=dict(name="classic", variant="convpool"),  # two 3x3 convolutions with pools, a dense layer
    convit=dict(name="convit", variant="S/2", width=45, depth=4, local=3, mlp=90, heads=9),
    mixer=dict(name="mixer", variant="S/2", width=64, depth=4, token_mlp=32, channel_mlp=128),
    vit=dict(name="vit", variant="Ti/2", width=48, depth=4, mlp=96, heads=3, pool="gap"),
)
for name in ("convit", "mixer", "vit"):
    ENCODERS[name]["scan"] = False  # unrolled, a step is a quarter faster on a CPU
DEFAULT = ("cnn", "convit", "vit")


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 32
    c.steps = 600

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
        schedule=dict(name="cosine", warmup_steps=30),
    )

    c.evaluators = dict(
        accuracy=dict(),
        linear=dict(steps=300, batch_size=64),
        knn=dict(k=(1, 10)),
        bias_attention=dict(),
        bias_equivariance=dict(),
        bias_field=dict(),
        bias_spectrum=dict(),
        shift=dict(),
        shuffle=dict(grids=(2, 4)),
    )
    c.checkpoint = dict(keep=1)
    c.log = dict(every_steps=100)

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
    names = ENCODERS if args.mixer else DEFAULT
    return dict(
        encoders={name: ENCODERS[name] for name in names},
        # 20, 50, 100, 250, 580 and all 1,296 images.
        fractions=(0.0155, 0.0387, 0.0772, 0.193, 0.45, 1.0),
        seeds=(0, 1, 2),
        lrs=(2e-3, 6e-3),
        budgets=dict(steps=dict(steps=600)),
    )
