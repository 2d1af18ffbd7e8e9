"""What is learnt: pure losses, and what follows an update."""

from collections.abc import Mapping

from vitjax.lookup import lookup
from vitjax.objectives import dinov2, frozen, mae, presets, simclr, supervised
from vitjax.objectives.objective import Objective

OBJECTIVES = {
    "dinov2": dinov2.DINOv2,
    "frozen": frozen.frozen,
    "mae": mae.mae,
    "simclr": simclr.simclr,
    "supervised": supervised.supervised,
}
# Settings that follow from (steps, batch_size, examples) where a config leaves them out.
PRESETS = {"dinov2": presets.dinov2}
# Settings of an objective that are durations: each takes _steps, _epochs or _examples.
DURATIONS = ("temperature_warmup_", "momentum_", "gram_start_", "gram_every_")


def create(name: str, *, encoder, image_size: int, **settings) -> Objective:
    """The objective called `name`. encoder: models.Encoder. Settings are its keyword arguments."""
    make = lookup(OBJECTIVES, name, "objective.name")
    return make(encoder=encoder, image_size=image_size, **settings)


def preset(settings: Mapping, *, steps: int, batch_size: int, examples: int) -> dict:
    """What PRESETS has for an objective and its settings leave out."""
    if settings["name"] not in PRESETS:
        return {}
    filled = PRESETS[settings["name"]](steps=steps, batch_size=batch_size, examples=examples)
    return {key: value for key, value in filled.items() if key not in settings}


__all__ = ["DURATIONS", "OBJECTIVES", "Objective", "create", "preset"]
