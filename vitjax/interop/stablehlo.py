"""A model as StableHLO: one file that runs without vitjax, on any batch size."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from vitjax.interop.model import Model

PLATFORMS = ("cpu", "tpu", "cuda")
FILE, SIGNATURE = "model.stablehlo", "signature.json"
LIMIT = 2**31 - 1  # bytes that the container's offsets can count


def export(model: Model, variables: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """(the serialized program, its signature) of images [b, S, S, 3] -> logits, or pooled features
    where there is no head. S is spec.image_size, the weights are constants in it, b is free.

    jax.export.deserialize(bytearray(program)).call(images) runs it; its calling convention is kept
    for six months at least (jax.export's compatibility guarantee). Raises ValueError for a model
    too large for one file.
    """
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if held > LIMIT:
        raise ValueError(
            f"--to stablehlo: {held / 2**30:.1f} GiB of weights are more than the 2 GiB that one "
            "file of constants can hold: give another --to"
        )

    def forward(images):
        logits, features = model.apply(variables, images)
        return features.pooled.astype(jnp.float32) if logits is None else logits

    size = model.spec.image_size
    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    exported = jax_export.export(jax.jit(forward), platforms=PLATFORMS)(images)
    (output,) = exported.out_avals
    looks = model.spec.preprocessing
    signature = {
        "format": f"jax.export, calling convention {exported.calling_convention_version}",
        "platforms": list(exported.platforms),
        "input": {
            "shape": [str(n) for n in images.shape],
            "dtype": "float32",
            "pixels": "RGB / 255, minus mean, over std, channel by channel",
            "mean": list(looks.mean),
            "std": list(looks.std),
            "crop": looks.crop,
            "resize": looks.resize,
        },
        "output": {
            "name": "logits" if model.head is not None else "pooled",
            "shape": [str(n) for n in output.shape],
            "dtype": str(output.dtype),
        },
    }
    return bytes(exported.serialize()), signature


def write(model: Model, variables: dict[str, Any], folder: Path) -> None:
    """model.stablehlo and signature.json in a folder that is there."""
    program, signature = export(model, variables)
    (folder / FILE).write_bytes(program)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=2) + "\n")
