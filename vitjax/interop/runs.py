"""Our own runs' folders as models: what came from elsewhere becomes one, and leaves as one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import checkpoint, models, objectives
from vitjax.interop.layout import Preprocessing, Spec
from vitjax.interop.model import Model, build
from vitjax.ops.position import mover

# Our words for the kernels that images are resized with (ops.crop.KERNELS).
METHODS = {"bicubic": "cubic", "bilinear": "linear"}


def is_run(path) -> bool:
    """Whether a path names a run's folder, or checkpoints/STEP in one."""
    return (checkpoint.locate(path)[0] / "checkpoints").is_dir()


def state_of(path):
    """(config of a run, its objective, {"step", "params", "extra"} of a checkpoint): all but the
    moments of its optimizer. Needs none of the run's data. Raises ValueError with one line."""
    workdir, step = checkpoint.locate(path)
    try:
        settings = {"eval_views": {}} | json.loads((workdir / "config.json").read_text())["config"]
        encoder, size = settings["encoder"], settings["views"]["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no run: {workdir / 'config.json'} cannot be read ({type(error).__name__})"
        ) from error
    objective = objectives.create(
        **settings["objective"], encoder=models.create(**encoder), image_size=size
    )
    params, extra = jax.eval_shape(objective.init, jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {"step": jax.ShapeDtypeStruct((), jnp.int32), "params": params, "extra": extra}
    targets = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=here), wanted
    )
    arrays, differences = checkpoint.restore_parameters(workdir, targets, key="the run", step=step)
    if differences:
        raise ValueError(f"{path} is of another model: {checkpoint.summary(differences)}")
    return settings, objective, arrays


def read(path) -> tuple[Model, dict[str, Any]]:
    """(model, variables) of a run: the encoder as it is evaluated, and the head on it, where the
    objective has one. Needs none of the run's data. Raises ValueError with one line."""
    settings, objective, state = state_of(path)
    encoder, size = settings["encoder"], settings["views"]["size"]
    params, extra = state["params"], state["extra"]
    head = {} if objective.head is None else objective.head(params, extra)
    weights = objective.encoder_variables(params, extra)
    variables = {"encoder": weights["params"], "head": head, "stats": weights["stats"]}
    spec = Spec(
        encoder=encoder,
        classes=head["logits"]["bias"].size if head else 0,
        hidden=head["pre_logits"]["bias"].size if "pre_logits" in head else 0,
        image_size=size,
        preprocessing=_preprocessing(settings["views"], settings["eval_views"]),
    )
    return build(spec), jax.device_get(variables)


def _preprocessing(views: Mapping[str, Any], eval_views: Mapping[str, Any]) -> Preprocessing:
    said = {key: tuple(views[key]) for key in ("mean", "std") if key in views}
    if "crop" in eval_views:
        said["crop"] = eval_views["crop"]
    if "method" in eval_views:
        said["resize"] = next(k for k, ours in METHODS.items() if ours == eval_views["method"])
    return Preprocessing(**said)


def write(model: Model, variables: Mapping[str, Any], folder: Path, beside: Mapping) -> None:
    """A run's folder that has trained for no step: `vitjax evaluate`, `vitjax features` and
    init_from take it. folder: there, and empty. beside: what else config.json holds."""
    weights = {key: variables[key] for key in ("encoder", "head") if variables[key]}
    state = {
        "step": np.zeros((), np.int32),
        "params": weights,
        "opt": {},
        "extra": {"stats": variables["stats"]},
    }
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    checkpoints.save(0, state, {}, {})
    checkpoints.close()
    record = {"config": settings_of(model.spec), **beside}
    (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")


def settings_of(spec: Spec) -> dict[str, Any]:
    """The config of a run that is these weights. It names no data: every verb asks for some."""
    objective = {"name": "frozen"}
    if spec.classes:
        objective = {"name": "supervised", "classes": spec.classes, "head_hidden": spec.hidden}
    looks = spec.preprocessing
    return {
        "batch_size": 64,
        "steps": 1,
        "encoder": dict(spec.encoder),
        "objective": objective,
        "data": {},
        # The shorter side of most photographs, twice as large as what is kept of it.
        "input": {"canvas": 2 * round(spec.image_size / looks.crop)},
        "views": {"size": spec.image_size, "mean": list(looks.mean), "std": list(looks.std)},
        "eval_views": {"crop": looks.crop, "method": METHODS[looks.resize]},
        "optimizer": {"name": "sgd", "lr": 0.0, "schedule": {"name": "constant"}},
        "evaluators": {"knn": {}},
    }


def resized(model: Model, variables: Mapping[str, Any], size: int) -> tuple[Model, dict[str, Any]]:
    """The model for images of another size: position tables resampled as the encoder does it.

    Raises ValueError of one line where the encoder cannot take that size.
    """
    if size < 1:
        raise ValueError(f"--image_size={size}: give a number of pixels")
    spec = model.spec
    moved = build(Spec(spec.encoder, spec.classes, spec.hidden, size, spec.preprocessing))
    arrays, targets = checkpoint.flat(dict(variables)), checkpoint.flat(moved.shapes())
    for path, target in targets.items():
        if arrays[path].shape == target.shape:
            continue
        move = mover(path, spec.settings().get("resample", "cubic"))
        if move is None:
            raise ValueError(
                f"--image_size={size}: {path} {arrays[path].shape} is made for images of "
                f"{spec.image_size} pixels"
            )
        arrays[path] = np.asarray(move(jnp.asarray(arrays[path]), target.shape), np.float32)
    return moved, {"head": {}, "stats": {}} | checkpoint.unflatten(arrays)
