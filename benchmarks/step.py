"""Images per second of whole train steps on synthetic images: views, forward, backward, update.

    python benchmarks/step.py [--models vit_s16,resnet50] [--steps 20] [--out DIR]
One row per model; MFU where the device's peak is known. Needs neither TensorFlow nor clu.
"""

import argparse
import time

import jax
import numpy as np
import table

from vitjax.sharding import mesh as mesh_lib
from vitjax.train import clock, setup
from vitjax.train import recipe as recipe_lib

# name: (encoder, image size, batch on an accelerator, batch on a CPU)
MODELS = {
    "vit_s16": ({"name": "vit", "variant": "S/16"}, 224, 512, 4),
    "vit_b16": ({"name": "vit", "variant": "B/16"}, 224, 256, 2),
    "vit_l16": ({"name": "vit", "variant": "L/16", "remat": "dots"}, 224, 128, 2),
    "resnet50": ({"name": "resnet", "variant": "50"}, 224, 256, 4),
    "vit_ti4_cifar": ({"name": "vit", "variant": "Ti/4"}, 32, 2048, 64),
    "resnet18_cifar": ({"name": "resnet", "variant": "18", "stem": "small"}, 32, 2048, 64),
    "resnet18_quarter_cifar": (
        {"name": "resnet", "variant": "18", "stem": "small", "width": 0.25},
        32,
        2048,
        128,
    ),
}


def measure(name: str, encoder: dict, size: int, batch_size: int, steps: int) -> dict:
    recipe = recipe_lib.read(
        {
            "batch_size": batch_size,
            "steps": steps,
            "encoder": encoder,
            "objective": {"name": "supervised", "classes": 1000},
            "data": {},
            "input": {"canvas": size},
            "views": {"size": size, "mixup": 0.2},
            "optimizer": {"name": "adamw", "lr": 1e-3, "schedule": {"name": "constant"}},
        }
    )
    mesh = mesh_lib.make_mesh()
    rng = np.random.default_rng(0)
    with jax.set_mesh(mesh):
        experiment = setup.build(recipe, mesh, train_examples=1_281_167)
        batch = mesh_lib.put_batch(
            {
                "image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
                "size": np.full((batch_size, 2), size, np.int32),
                "label": rng.integers(0, 1000, batch_size).astype(np.int32),
                "index": np.arange(batch_size, dtype=np.uint32),
                "epoch": np.zeros(batch_size, np.uint32),
            },
            mesh,
        )
        state = experiment.init()
        start = time.perf_counter()
        state, metrics = experiment.step(state, batch)
        jax.block_until_ready(metrics)
        compiled = time.perf_counter() - start
        for _ in range(2):
            state, metrics = experiment.step(state, batch)
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = experiment.step(state, batch)
        jax.block_until_ready(metrics)
        seconds = (time.perf_counter() - start) / steps
    speed = batch_size / seconds
    peak = clock.peak_flops(jax.devices()[0].device_kind)
    mfu = None if peak is None else speed * experiment.flops / (peak * jax.device_count())
    return {
        "model": name,
        "batch": batch_size,
        "images/s": speed,
        "step ms": 1e3 * seconds,
        "GFLOP/image": experiment.flops / 1e9,
        "TFLOP/s": speed * experiment.flops / 1e12,
        "MFU": mfu,
        "compile s": compiled,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="", help="comma-separated; all where left out")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", default=None, help="folder for step.json")
    parser.add_argument("--no-scan", action="store_true", help="unroll the blocks")
    args = parser.parse_args()
    cpu = jax.default_backend() == "cpu"
    names = args.models.split(",") if args.models else list(MODELS)
    rows = []
    for name in names:
        encoder, size, accelerator_batch, cpu_batch = MODELS[name]
        if args.no_scan:
            encoder = encoder | {"scan": False}
        rows.append(
            measure(name, encoder, size, cpu_batch if cpu else accelerator_batch, args.steps)
        )
    table.publish("step", f"train steps on {jax.devices()[0].device_kind}", rows, args.out)


if __name__ == "__main__":
    main()
