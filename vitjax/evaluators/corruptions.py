"""Accuracy under the 15 corruptions of ImageNet-C, made on the fly (arXiv:1903.12261).

A readout fitted to clean training images is applied unchanged to corrupted validation images.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from vitjax.evaluators import readout as readouts
from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch
from vitjax.ops.corruptions import CORRUPTIONS, PARAMETERS, corrupt

NAMES = tuple(CORRUPTIONS)
IMAGES = 32  # per device and step

# Mean error of AlexNet over the severities of ImageNet-C: the authors' published 75 errors.
ALEXNET = {
    "gaussian_noise": 0.88643,
    "shot_noise": 0.89447,
    "impulse_noise": 0.92264,
    "defocus_blur": 0.81988,
    "glass_blur": 0.82627,
    "motion_blur": 0.78595,
    "zoom_blur": 0.79836,
    "snow": 0.86682,
    "frost": 0.82657,
    "fog": 0.81932,
    "brightness": 0.56459,
    "contrast": 0.85320,
    "elastic_transform": 0.64606,
    "pixelate": 0.71784,
    "jpeg_compression": 0.60650,
}


def run(
    train: Frozen,
    validation: Frozen,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    scale: str = "imagenet",
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"clean_top1", "mean_error", "mce", "error_<name>" each}, on the images of the sample.

    error_<name>: mean over the severities; mean_error: mean of those. mce divides each by AlexNet's
    on ImageNet-C before the mean (arXiv:1903.12261, sec. 4): it compares with published numbers
    on ImageNet at 224 pixels with all names and severities, and is a mere reweighting elsewhere.
    scale: "imagenet" parameters for some 224 pixels, "cifar" for 32 (see ops.corruptions, which
    also says where its images differ from the published files). Draws depend on the seed, the
    corruption, the severity and the place of the image in its split.
    """
    check(names=names, severities=severities, scale=scale, readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "corruptions")
    predict = readouts.readout(train, readout, k)

    def error(images):
        return float(np.mean(predict(sample.encode(images)[0]) != sample.label))

    errors = {}
    for name in names:
        each = [
            error(corrupted(sample.images, sample.rows, name, severity, scale, seed))
            for severity in severities
        ]
        errors[name] = float(np.mean(each))
    return {
        "clean_top1": float(np.mean(predict(sample.pooled) == sample.label)),
        "mean_error": float(np.mean(list(errors.values()))),
        "mce": float(np.mean([errors[name] / ALEXNET[name] for name in names])),
        **{f"error_{name}": value for name, value in errors.items()},
    }


def corrupted(images, rows, name, severity, scale, seed) -> np.ndarray:
    """images uint8 [M, S, S, 3], their rows [M] -> uint8 [M, S, S, 3], over all devices."""
    mesh = evaluation_mesh()
    step = mesh.size * min(IMAGES, -(-len(images) // mesh.size))
    parts = []
    for start in range(0, len(images), step):
        part, at = images[start : start + step], rows[start : start + step].astype(np.uint32)
        lacking = step - len(part)
        part, at = np.pad(part, ((0, lacking), *((0, 0),) * 3)), np.pad(at, (0, lacking))
        out = on_devices(
            cut(part, mesh, 0),
            cut(at, mesh, 0),
            np.int32(severity),
            name=name,
            scale=scale,
            seed=seed,
            mesh=mesh,
        )
        parts.append(fetch(out)[: step - lacking])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnames=("name", "scale", "seed", "mesh"))
def on_devices(images, rows, severity, *, name, scale, seed, mesh):
    def on_device(images, rows, severity):
        key = jax.random.fold_in(jax.random.key(seed), NAMES.index(name))
        key = jax.random.fold_in(key, severity)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        images = images.astype(np.float32)
        out = corrupt(images, keys, name=name, severity=severity, scale=scale)
        return out.astype(np.uint8)

    over = P(mesh.axis_names)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(over, over, P()), out_specs=over, check_vma=False
    )(images, rows, severity)


def check(*, names, severities, scale, readout, k, seed):
    if isinstance(names, str) or not names or not set(names) <= set(NAMES):
        raise ValueError(
            f"evaluators.corruptions.names={names!r}: expected a list of some of {list(NAMES)}"
        )
    if not isinstance(severities, Sequence) or not severities or set(severities) - {1, 2, 3, 4, 5}:
        raise ValueError(
            f"evaluators.corruptions.severities={severities!r}: expected a list of some of 1 to 5"
        )
    if scale not in PARAMETERS:
        raise ValueError(
            f"evaluators.corruptions.scale={scale!r}: expected one of {list(PARAMETERS)}"
        )
    readouts.check("corruptions", readout=readout, k=k)
    if seed < 0:
        raise ValueError(f"evaluators.corruptions.seed={seed}: expected at least 0")
