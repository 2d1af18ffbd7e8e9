"""DINOv2, the giant ViT-g/14 on ImageNet-21k (arXiv:2304.07193; the published vitg14 recipe).

Expect 83.5% kNN and 86.5% linear on ImageNet-1k from LVD-142M, which is not public, after 625,000
steps of 3072 images (cited: its README). Not run here: no accelerator was at hand. The evaluators
here look at the data set's own classes; kNN on ImageNet-1k: `vitjax evaluate --data`.
    python -m vitjax.main --config configs/dinov2_g14.py --workdir runs/dinov2_g14
Needs ImageNet-21k as `vitjax prepare TARS --out data/i21k` writes it (TFDS has none); elsewhere:
:path=DIR.
Fits 256 v5e chips (mesh.replica=16, mesh.data=16): 4.08 of 15.75 GiB a chip, 700 ms a
step of 3072 images by the compiler's estimate; compiled, never run (docs/pods.md).
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    path: str = "data/i21k"
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 3072
    c.steps = 625_000

    # There is no published validation split: 1% of train is held out, and nothing is a test.
    c.data = dict(name="array_record", path=args.path, train="train", test=None, minival=0.01)
    c.input = dict(canvas=512, threads=32)
    c.views = dict(
        name="multicrop",
        size=224,
        local_size=98,
        local_crops=8,
        global_area=[0.32, 1.0],
        local_area=[0.05, 0.32],
        blur="dinov2_released",
    )
    c.eval_views = dict(crop=0.875)

    c.encoder = dict(
        name="vit",
        variant="dino-g/14",
        pool="cls",
        class_position=True,
        activation="swiglu",
        layer_scale=1e-5,
        mask_token=True,
        drop_path=0.4,
        drop_path_form="subset",
        resample="cubic_offset",
        remat="full",
    )
    c.objective = dict(
        name="dinov2",
        targets="sinkhorn",
        prototypes=131_072,
        patch_prototypes=131_072,
        head_bottleneck=384,
        teacher_temperature=0.07,
        teacher_temperature_start=0.04,
        temperature_warmup_steps=37_500,
        momentum=0.994,
        momentum_steps=625_000,
        monitor_steps=50,  # as often as they are logged
    )
    # 2e-4 * sqrt(3072 / 1024).
    c.optimizer = dict(
        name="adamw",
        lr=3.464e-4,
        weight_decay=0.04,
        weight_decay_final=0.2,
        # All but biases, norms and layer scales; tokens, positions and prototypes decay too.
        decay=[
            [r"prototypes/", 1.0],
            [r"(^|/)(bias|scale|layer_scale\d)$", 0.0],
            [r".*", 1.0],
        ],
        lr_multipliers=[[r"^encoder/embedding/", 0.2]],
        late=[[r"prototypes/", 1250]],
        clip_norm=3.0,
        clip_each=True,
        schedule=dict(name="cosine", warmup_steps=100_000, final=2.9e-3),
    )

    c.mesh = dict(replica=-1, data=16, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_steps=25_000, train_examples=50_000, time_fraction=0.1)
    c.evaluators = dict(linear=dict(steps=2500), knn=dict(k=[10, 20]), monitors=dict())
    c.checkpoint = dict(every_steps=2500, keep=2)
    c.log = dict(every_steps=50)

    if args.smoke:
        smoke(c, width=16, depth=2, mlp=32, heads=2)
        c.encoder.variant = "Ti/4"
        c.views.update(size=16, local_size=8, local_crops=2)
        c.objective.update(prototypes=64, head_hidden=32, mask_least=1, temperature_warmup_steps=1)
        c.objective.patch_prototypes = 64
        c.optimizer.late = [[r"prototypes/", 1]]
    return c
