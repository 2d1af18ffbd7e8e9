"""vitjax.main, started by a test that wants to know which images each process read and which
arrays it restored: `python recording.py -m vitjax.main ...`, into the folder that RECORD names."""

import json
import os
import pathlib
import sys

import jax
import numpy as np

from vitjax import checkpoint, main
from vitjax.data import pipeline


def install(folder: pathlib.Path, setattr=setattr) -> None:
    """Write to `folder`: seen.<process>, a line "epoch index ..." per batch, and
    restored.<process>.npz, the parts of each array that this process holds."""
    read, restore = pipeline.TrainBatches.__next__, checkpoint.Checkpoints.restore

    def recorded(self):
        batch = read(self)
        rows = zip(batch["epoch"], batch["index"], strict=True)
        with (folder / f"seen.{jax.process_index()}").open("a") as file:
            file.write(" ".join(f"{epoch}:{index}" for epoch, index in rows) + "\n")
        return batch

    def kept(self, step, target):
        state, data = restore(self, step, target)
        parts = {
            f"{name}|{json.dumps([[s.start, s.stop] for s in shard.index])}": np.asarray(shard.data)
            for name, array in checkpoint.flat(state).items()
            for shard in array.addressable_shards
        }
        np.savez(folder / f"restored.{jax.process_index()}.npz", **parts)
        return state, data

    setattr(pipeline.TrainBatches, "__next__", recorded)
    setattr(checkpoint.Checkpoints, "restore", kept)


if __name__ == "__main__":
    install(pathlib.Path(os.environ["RECORD"]))
    sys.argv = [main.__file__, *sys.argv[3:]]
    main.cli()
