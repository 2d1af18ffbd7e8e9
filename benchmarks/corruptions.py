"""How long each corruption takes an image of 224 x 224 pixels, on the accelerator at hand.

    python benchmarks/corruptions.py [--out DIR]
The median of five batches at severity 3, compiled before.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import table

from vitjax.ops.corruptions import CORRUPTIONS, corrupt

SIZE, REPEATS = 224, 5


def measure(name: str, batch: int) -> dict:
    images = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3))
    images = jax.device_put(images.astype(np.float32))
    keys = jax.random.split(jax.random.key(0), batch)
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(corrupt(images, keys, name=name, severity=3, scale="imagenet"))
        seconds.append(time.perf_counter() - start)
    milliseconds = 1000 * statistics.median(seconds[1:]) / batch
    return {"corruption": name, "compile, s": seconds[0], "ms per image": milliseconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", help="folder for the JSON")
    parser.add_argument("--batch", type=int, default=8 if jax.default_backend() == "cpu" else 128)
    args = parser.parse_args()
    rows = [measure(name, args.batch) for name in CORRUPTIONS]
    table.publish("corruptions", f"batches of {args.batch}", rows, args.out)


if __name__ == "__main__":
    main()
