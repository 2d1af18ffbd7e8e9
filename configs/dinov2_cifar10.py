"""DINOv2 on CIFAR-10 with a ViT-Ti/4, from a folder or archive `split/class/*.jpg`: for one GPU.

The whole recipes were not run: no GPU was at hand, and they are a synthesis of what others found
for small images (docs/dinov2.md). To beat: kNN 29.6% of random features (ViT-Ti/4), 38% of raw
pixels, 74.2% of SimCLR with a small ViT, 84.0% of DINO with ResNet-18 (cited there).
    python -m vitjax.main --config configs/dinov2_cifar10.py:path=cifar10.tar.xz --workdir runs/x
With ResNet-18: :encoder=resnet. Thin networks, for an hour or two on 2 CPU cores: :hours. Measured
with :hours,encoder=resnet, one run of 78 minutes: kNN 48.3% and linear 54.8% of the frozen teacher
(20.5% and 33.3% at learning rate zero); with the ViT not run.
"""

import dataclasses

from ml_collections import ConfigDict

from vitjax.config import parse_arg, smoke


@dataclasses.dataclass(frozen=True)
class Args:
    path: str = "cifar10.tar.xz"
    encoder: str = "vit"
    hours: bool = False
    smoke: bool = False


def get_config(arg=""):
    args = parse_arg(arg, Args)
    c = ConfigDict()
    c.seed = 0
    c.batch_size = 512
    c.epochs = 100

    c.data = dict(name="folder", path=args.path, train="train", test="test", minival=0.05)
    c.input = dict(canvas=32)
    c.views = dict(
        name="multicrop",
        size=32,
        local_size=16,
        local_crops=6,
        global_area=[0.4, 1.0],
        local_area=[0.1, 0.4],
        blur=[0.0, 0.1, 0.1],
        blur_taps=3,
        blur_sigma=[0.1, 1.0],
        solarize=[0.0, 0.2, 0.0],
        mean=[0.491, 0.482, 0.447],
        std=[0.247, 0.243, 0.262],
    )
    c.eval_views = dict(crop=1.0)

    if args.encoder == "vit":
        c.encoder = dict(name="vit", variant="Ti/4", pool="cls", layer_scale=1e-2, mask_token=True)
    else:
        c.encoder = dict(name="resnet", variant="18", stem="small", mask_token=True)
    c.objective = dict(
        name="dinov2",
        targets="sinkhorn",
        prototypes=2048,
        head_bottleneck=128,
        head_hidden=1024,
        mask_least=1,
        teacher_temperature=0.04,
        teacher_temperature_start=0.03,
        temperature_warmup_epochs=10,
        momentum=0.99,
    )
    c.optimizer = dict(
        name="adamw",
        lr=1e-3,
        weight_decay=0.04,
        weight_decay_final=0.1,
        clip_norm=3.0,
        clip_each=True,
        late=[[r"prototypes/", 100]],
        schedule=dict(name="cosine", warmup_epochs=10),
    )

    if args.hours:
        c.batch_size, c.epochs = 128, 12
        c.views.update(local_crops=2)
        c.objective.update(prototypes=2048, head_hidden=512, head_bottleneck=64)
        c.objective.update(temperature_warmup_epochs=2, momentum=0.98)
        if args.encoder == "vit":
            c.encoder.update(width=96, depth=4, mlp=192, heads=3)
        else:  # teachers that are sharp from the start: see dinov2_shapes.py
            c.encoder.update(width=0.125, zero_init=False)
            c.objective.update(teacher_temperature=0.03, teacher_temperature_start=0.015)
        c.optimizer.update(lr=3e-3, weight_decay_final=0.04, late=[])
        c.optimizer.schedule.warmup_epochs = 1

    c.mesh = dict(replica=1, data=-1, model=1)
    c.sharding = dict(parameters="fsdp")

    c.evaluate = dict(every_epochs=2 if args.hours else 5, train_examples=10_000)
    c.evaluators = dict(
        knn=dict(k=[10, 20]), linear=dict(steps=500, batch_size=1024), monitors=dict()
    )
    c.checkpoint = dict(every_epochs=10, keep=2)
    c.log = dict(every_steps=20)

    if args.smoke:
        smoke(c)
        c.views.update(size=16, local_size=8, local_crops=2)
        c.objective.update(prototypes=64, head_hidden=32)
        c.objective.temperature_warmup_epochs = 1
        c.optimizer.late = [[r"prototypes/", 1]]
        if args.encoder == "vit":
            c.encoder.update(width=16, depth=2, mlp=32, heads=2)
    return c
