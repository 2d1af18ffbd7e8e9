"""ViT-g/14 on ImageNet-21k with the recipe of "Scaling vision transformers" (arXiv:2106.04560).

No number is known to expect: the paper's data, JFT-3B, are not public; its batch of 4096, its
optimizer, schedule and head are here. Not run here: no accelerator was at hand.
    python -m vitjax.main --config configs/vit_g14.py --workdir runs/vit_g14
Needs ImageNet-21k as `vitjax prepare TARS --out data/i21k` writes it (TFDS has none); elsewhere:
:path=DIR.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 5.22 of 15.75 GiB a chip, 206 ms a
step of 4096 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    variant: str = "g/14"
    path: str = "data/i21k"
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 4096
    c.steps = 309_000  # 90 epochs

    # There is no published validation split: 1% of train is held out, and nothing is a test.
    c.data = dict(name="array_record", path=args.path, train="train", test=None, minival=0.01)
    c.input = dict(canvas=512, threads=32)
    half = [0.5, 0.5, 0.5]
    c.views = dict(
        size=224, crop="resized", area=[0.05, 1.0], method="linear", flip=True, mean=half, std=half
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(
        name="vit",
        variant=args.variant,
        pool="map",
        positions="learned",
        biases="all",
        remat="dots",
    )
    # The bias starts each class at a probability of 5e-5.
    c.objective = dict(name="supervised", classes=21_841, loss="sigmoid", head_bias=-10.0)
    c.optimizer = dict(
        name="adafactor",
        lr=8e-4,
        weight_decay=0.03,
        decay=[[r"^head/.*kernel$", 100.0], [r"kernel$", 1.0]],
        multiply_by_parameter_scale=False,
        clipping_threshold=1.0,
        momentum=0.9,
        mu_dtype="bfloat16",
        clip_norm=1.0,
        schedule=dict(name="rsqrt", warmup_steps=10_000, timescale=10_000, cooldown_steps=50_000),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_steps=17_000, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(accuracy=dict(), linear=dict(steps=2500), knn=dict(k=[10, 20]))
    c.checkpoint = dict(every_steps=2500, keep=2, best="eval/validation/accuracy/top1")
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.views.size = 28
    return c
