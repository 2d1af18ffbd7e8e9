"""Parts of input.py that need jax alone: what the views of a batch cost, here and on a v5e."""

import os

import numpy as np
from input_rows import CANVAS, SIZE, in_turns, row

RECIPES = {
    "crop, flip": {},
    "and mixup, cutmix": {"mixup": 0.8, "cutmix": 1.0},
    "and 3-Augment, jitter": {
        "policy": {"name": "three_augment"},
        "color_jitter": 0.3,
        "cutmix": 1.0,
    },
    "and RandAugment (TensorFlow's)": {"policy": {"name": "randaugment_tf"}, "mixup": 0.2},
    "and RandAugment (timm's)": {"policy": {"name": "randaugment_timm"}, "mixup": 0.2},
    "and AutoAugment": {"policy": {"name": "autoaugment"}, "mixup": 0.2},
}


def augment(args):
    """The views of a batch on this machine's cores."""
    import jax

    from vitjax.ops.augment import train_views

    rows, images = [], 16
    batch = {
        "image": np.random.RandomState(0).randint(0, 256, (images, CANVAS, CANVAS, 3), np.uint8),
        "size": np.full((images, 2), CANVAS, np.int32),
        "label": np.zeros(images, np.int32),
        "index": np.arange(images, dtype=np.uint32),
        "epoch": np.zeros(images, np.uint32),
    }
    for name, settings in RECIPES.items():
        make = jax.jit(
            lambda batch, key, s=settings: train_views(batch, key, classes=10, size=SIZE, **s)
        )
        work = {name: lambda make=make: jax.block_until_ready(make(batch, jax.random.key(0)))}
        rows += [row("augment", name, ms) for name, ms in in_turns(work, images).items()]
    return rows


def v5e(args):
    """The share of the views in a ViT-S/16 step of 128 images, bfloat16."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from vitjax import config
    from vitjax.plan import program, topology
    from vitjax.sharding import mesh as mesh_lib
    from vitjax.train import recipe as recipe_lib
    from vitjax.train import setup

    mesh = mesh_lib.make_mesh(devices=topology.find("v5e:1x1").devices)
    settings = config.load("configs/vit_s16.py")
    settings |= {"batch_size": 128, "precision": "bfloat16"}
    settings["input"]["canvas"] = CANVAS
    shares = {name: taken(views.get("policy")) for name, views in RECIPES.items()}
    rows = []

    def cycles(lowered, taken=program.typically):
        return program.estimated_cycles(program.Program(lowered.compile().as_text()), taken)

    settings["views"] = {"size": SIZE, "crop": "none", "flip": False}
    with jax.set_mesh(mesh):
        recipe = recipe_lib.read(settings)
        experiment = setup.build(recipe, mesh, train_examples=1_281_167)
        batch = setup.batch_target(recipe, mesh)
        lowered = experiment.step.lower(experiment.target, batch)
        step = cycles(lowered)
        for name, views in RECIPES.items():
            settings["views"] = {"size": SIZE} | views
            make = setup.make_views(recipe_lib.read(settings), "bfloat16")["train"]
            lowered = jax.jit(
                lambda batch, data, make=make: make(batch, jax.random.wrap_key_data(data))
            ).lower(batch, jax.ShapeDtypeStruct((2,), np.uint32))
            share = cycles(lowered, shares[name])
            rows.append(row("v5e", name, "", "% of a step", 100 * share / step))
    return rows


def taken(policy):
    """How often each group of distortions is drawn (plan.program.Taken), over 20,000 images."""
    import jax

    from vitjax.ops import distort, policies
    from vitjax.plan import program

    if policy is None or policy["name"] == "three_augment":
        return program.typically
    draw = {
        "randaugment_tf": lambda key: policies.draw_randaugment_tf(key, 2, 10),
        "randaugment_timm": lambda key: policies.draw_randaugment_timm(key, 2, 9, 0.5, 0.5),
        "autoaugment": policies.draw_autoaugment,
    }[policy["name"]]
    numbers = jax.vmap(lambda key: draw(key)[0])(jax.random.split(jax.random.key(0), 20_000))
    groups = np.asarray(distort.GROUP)[np.asarray(numbers).ravel()]
    counts = np.bincount(groups, minlength=len(distort.GROUPS))
    shares = counts / counts.sum()
    return lambda choice, branches: (
        shares if branches == len(shares) else program.typically(choice, branches)
    )
