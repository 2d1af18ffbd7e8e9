"""Numbers that follow from the size of the data set and of the batch, where a config leaves them
out. The tables and lines are lightly-train's scaling of DINO (its method, cited in docs/dinov2.md).
"""

import math

# Data sets of fewer images than the first number have so many prototypes.
PROTOTYPES = ((20_000, 1024), (50_000, 2048), (100_000, 4096), (200_000, 16_384), (500_000, 32_768))
MOST_PROTOTYPES = 65_536
BALANCED_BATCH = 1024  # Sinkhorn-Knopp wants a batch of so many images
TEMPERATURE_WARMUP = 37_500  # steps at most


def dinov2(*, steps: int, batch_size: int, examples: int) -> dict:
    """Settings of objective dinov2 for a run of so many steps and images."""
    share = (examples - 20_000) / 980_000
    temperature = round(min(max(0.02 + 0.05 * share, 0.02), 0.07), 2)
    momentum = round(min(max(0.99 + 0.006 * share, 0.99), 0.996), 3)
    return {
        "prototypes": next((k for most, k in PROTOTYPES if examples < most), MOST_PROTOTYPES),
        "targets": "sinkhorn" if batch_size >= BALANCED_BATCH else "centering",
        "teacher_temperature": temperature,
        "teacher_temperature_start": round(0.02 + 0.4 * (temperature - 0.02), 3),
        "temperature_warmup_steps": min(TEMPERATURE_WARMUP, math.ceil(0.3 * steps)),
        "momentum": momentum,
        "momentum_steps": steps,
    }
