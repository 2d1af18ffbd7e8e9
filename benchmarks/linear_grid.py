"""What the 52 heads of the linear probe cost beside one: a step on augmented images, and cached.

    python benchmarks/linear_grid.py [--out DIR]
augmented: encode a batch of random crops and update the heads, the protocol of DINOv2; reading
images is left out, it would hide the heads. cached: the heads alone, on features that are there.
Each the median of STEPS, of ViT-Ti/4 at 32 pixels with its last four blocks.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import table

from vitjax.evaluators import linear
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup

BATCH, SIZE, STEPS = 256, 32, 9
FIELDS = ("layers", "patch_mean")


def encoder(mesh):
    """encode(batch) of fresh weights, and a batch of noise."""
    recipe = recipe_lib.read(
        {
            "batch_size": BATCH,
            "steps": 1,
            "encoder": {"name": "vit", "variant": "Ti/4", "pool": "cls", "scan": False},
            "objective": {"name": "supervised", "classes": 10},
            "data": {},
            "input": {"canvas": SIZE},
            "views": {"size": SIZE},
            "optimizer": {"name": "sgd", "lr": 0.0, "schedule": {"name": "constant"}},
        }
    )
    experiment = setup.build(recipe, mesh, train_examples=BATCH)
    state = experiment.init()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    batch = {
        "image": images,
        "size": np.full((BATCH, 2), SIZE, np.int32),
        "label": np.zeros(BATCH, np.int32),
        "index": np.arange(BATCH, dtype=np.uint32),
        "epoch": np.zeros(BATCH, np.uint32),
    }
    batch = mesh_lib.put_batch(batch, mesh)
    encode = experiment.frozen.encode(FIELDS, 0)
    return lambda: encode(state.params, state.extra, batch)


def heads(widths, classes: int, grid) -> tuple:
    """The arguments of linear.update: a grid of (rate, blocks, mean patch)."""
    masks = np.stack([linear.mask(widths, len(widths) - 1, n, mean) for _, n, mean in grid])
    start = jax.jit(linear.initial, static_argnums=(1, 2, 3))(masks, 0, classes, widths)
    label = np.random.default_rng(0).integers(0, classes, BATCH).astype(np.int32)
    return start, label, np.asarray([lr for lr, _, _ in grid], np.float32), masks


def measure(classes: int, encode) -> list[dict]:
    out = encode()
    blocks = (out["pooled"], *out["layers"][1:])
    everything = (*blocks, out["patch_mean"])
    one = ([(0.01, 1, False)], blocks[:1])
    lrs, choices = linear.LRS, [(n, mean) for n in (1, 4) for mean in (False, True)]
    all_heads = ([(lr, n, mean) for n, mean in choices for lr in lrs], everything)
    rows = []
    for name, (grid, parts) in {"1 head": one, "52 heads": all_heads}.items():
        widths = tuple(part.shape[1] for part in parts)
        reads = widths if len(parts) > 1 else (*widths, 0)
        (weights, velocity), label, rates, masks = heads(reads, classes, grid)
        update = jax.jit(linear.update, static_argnums=6)
        features = np.concatenate(parts, axis=1)

        def cached(weights, velocity, update=update, args=(features, label, rates, masks)):
            return update(weights, velocity, *args, 0.0)

        def augmented(weights, velocity, cached=cached):
            jax.block_until_ready(encode())
            return cached(weights, velocity)

        seconds = {}
        for what, step in {"cached": cached, "augmented": augmented}.items():
            jax.block_until_ready(step(weights, velocity))
            times = []
            for _ in range(STEPS):
                start = time.perf_counter()
                jax.block_until_ready(step(weights, velocity))
                times.append(time.perf_counter() - start)
            seconds[what] = statistics.median(times)
        rows.append({"classes": classes, "heads": name, **seconds})
    for row in rows:
        row["cached, ratio"] = row["cached"] / rows[0]["cached"]
        row["augmented, ratio"] = row["augmented"] / rows[0]["augmented"]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", help="folder for the JSON")
    args = parser.parse_args()
    mesh = mesh_lib.make_mesh()
    with jax.set_mesh(mesh):
        encode = encoder(mesh)
        rows = [row for classes in (10, 100) for row in measure(classes, encode)]
    table.publish("linear_grid", f"seconds per step, batch {BATCH}", rows, args.out)


if __name__ == "__main__":
    main()
