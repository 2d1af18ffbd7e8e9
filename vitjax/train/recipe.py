"""The top level of a config: which sections a run has, and what stands where one says nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitjax import config as config_lib

# What makes a run the run it is: a workdir holds one of these. Mesh, logging, evaluators and how
# the images are read may change when it goes on.
IDENTITY = (
    *("seed", "batch_size", "accumulate", "precision", "encoder", "objective", "data", "views"),
    *(
        "input.canvas",
        "input.shuffle",
        "optimizer",
        "init_from",
        "teacher_from",
        *config_lib.DURATIONS,
    ),
)
# Within those, what changes where or how fast, not what.
NEUTRAL = ("data.data_dir", "data.path", "encoder.scan", "encoder.remat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A config as the trainer sees it; sections are a name plus the keyword arguments of that
    function.

    batch_size: images per update, over all devices. One of steps, epochs, examples: the length of
    the run.
    encoder, objective: see models and objectives. data: which images (data.splits.open_splits).
    input: how they are read (canvas in pixels, threads, workers, bad_share). views, eval_views:
    ops.augment.train_views, eval_views.
    optimizer: optim.create; its schedule takes warmup_steps, warmup_epochs or warmup_examples.
    evaluate: every_<unit>, train_examples (of the train split that probes may see). evaluators:
    name -> settings.
    checkpoint: every_<unit>, keep, best (a metric), minimise. log: every_steps,
    figures (whether the end of a run is drawn).
    mesh: sharding.make_mesh. sharding: sharding.shardings. precision: auto, float32 or bfloat16
    (compute; parameters are float32). accumulate: micro-batches per update. init_from: workdir of
    the run to start from. teacher_from: workdir of the run whose weight average, heads and all, is
    the frozen teacher that objective.teacher describes.
    """

    batch_size: int
    encoder: Mapping[str, Any]
    objective: Mapping[str, Any]
    data: Mapping[str, Any]
    input: Mapping[str, Any]
    views: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    steps: int | None = None
    epochs: float | None = None
    examples: float | None = None
    eval_views: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluate: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluators: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    checkpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sharding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    precision: str = "auto"
    accumulate: int = 1
    seed: int = 0
    init_from: str | None = None
    teacher_from: str | None = None

    def __post_init__(self):
        for key in ("batch_size", "accumulate"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise config_lib.ConfigError(f"config key {key}={value!r} is not a number above 0")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "Mapping" in str(field.type) and not isinstance(value, Mapping):
                raise config_lib.ConfigError(
                    f"config key {field.name}={value!r} is not a section: give {field.name}.<key>"
                )


def read(config) -> Recipe:
    """A ConfigDict (or a plain dict) -> Recipe. Raises ConfigError naming the key at fault."""
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return config_lib.call(Recipe, settings, "")


def differences(there: Mapping, here: Mapping) -> list[str]:
    """Keys of IDENTITY on which two resolved configs differ: "key: value there, value here"."""
    there, here = config_lib.flatten(there), config_lib.flatten(here)

    def mine(key):
        inside = any(key == name or key.startswith(name + ".") for name in IDENTITY)
        return inside and key not in NEUTRAL

    keys = [key for key in dict.fromkeys([*there, *here]) if mine(key)]
    return [
        f"{key}: {there.get(key, 'unset')} there, {here.get(key, 'unset')} here"
        for key in keys
        if there.get(key) != here.get(key)
    ]
