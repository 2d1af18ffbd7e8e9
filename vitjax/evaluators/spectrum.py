"""Which frequencies features rest on: noise in one band after the other, and the spectrum of maps.

M images of S x S pixels, maps [M, h, w, D].
"""

import jax.numpy as jnp
import numpy as np

from vitjax.evaluators import readout as readouts
from vitjax.evaluators.alterations import accuracy, check_common, generators
from vitjax.evaluators.features import Frozen, Inside
from vitjax.ops import alterations


def run(
    train: Frozen,
    validation: Frozen,
    *,
    rings: int = 4,
    strength: float = 0.1,
    layers: bool = False,
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "top1_ring_1", ..., "noise_frequency", "map_high"}.

    top1_ring_i: with noise of equal energy in one band of frequencies (arXiv:2202.06709, sec. 2):
    `rings` bands of equal width, 1 the lowest, up to the highest of a row of pixels; its deviation
    is `strength` of the range of the pixels. "noise_frequency": the mean frequency, 0 low to 1
    high, weighted by the accuracy each band takes: where the encoder is hurt; NaN where none takes
    any. "map_high": how much the last map keeps of its highest frequency, as log amplitude less
    that of its mean (the paper's Fourier analysis): lower is a stronger low-pass; left out for a
    map of one cell. layers: also of every layer, as "map_high_block_00".
    """
    check(rings=rings, strength=strength, layers=layers, readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "bias_spectrum")
    side = sample.images.shape[1]
    if rings > side // 2:
        raise ValueError(
            f"evaluators.bias_spectrum.rings={rings}: expected at most {side // 2}, the waves that "
            f"{side} pixels tell apart"
        )
    predict = readouts.readout(train, readout, k)
    clean = accuracy(predict(sample.pooled), sample.label)
    numbers, taken = {"top1": clean}, []
    for ring in range(rings):
        draws = generators(sample.rows, seed, ring)
        images = alterations.ring_noise(sample.images, rings, ring, 255 * strength, draws)
        top1 = accuracy(predict(sample.encode(images)[0]), sample.label)
        numbers[f"top1_ring_{ring + 1}"] = top1
        taken.append(max(clean - top1, 0.0))
    middles = (np.arange(rings) + 0.5) / rings
    hurt = sum(taken)
    numbers["noise_frequency"] = float(middles @ taken / hurt) if hurt else float("nan")
    for name, values in sample.measure(high, sample.images).items():
        if layers or not name:
            numbers[f"map_high_{name}" if name else "map_high"] = float(values.mean())
    return numbers


def check(*, rings, strength, layers, readout, k, seed):
    del layers
    if rings < 1:
        raise ValueError(f"evaluators.bias_spectrum.rings={rings}: expected at least 1")
    if not strength > 0:
        raise ValueError(f"evaluators.bias_spectrum.strength={strength}: expected above 0")
    check_common("bias_spectrum", readout, k, seed)


def high(inside: Inside, images) -> dict:
    """{layer, and "" for the last map: log_amplitude [n]}, of maps of more than one cell."""
    features = inside.features(images, inside.layers)
    maps = {"": features.patches} | features.layers
    return {name: log_amplitude(map) for name, map in maps.items() if min(map.shape[1:3]) > 1}


def log_amplitude(maps):
    """[n, h, w, D] -> [n]: of the highest frequency of both axes, less that of frequency 0, mean
    over channels of log(|FFT| + 1e-6)."""
    h, w = maps.shape[1:3]
    amplitude = jnp.log(jnp.abs(jnp.fft.fft2(maps, axes=(1, 2))) + 1e-6)
    return (amplitude[:, h // 2, w // 2] - amplitude[:, 0, 0]).mean(-1)
