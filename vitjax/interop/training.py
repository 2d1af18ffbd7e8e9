"""A run's training state as one file that anyone can go on from: student, teacher, heads, step.

Released weights of self-supervised models are mostly a teacher's backbone, with which nobody can
continue. Here `model.safetensors` holds "student/<name>" for all that is learnt, "teacher/<name>"
for its weight average (where there is one), "beside/<name>" for the rest of what the objective
keeps (statistics, centres) and "step"; `config.json` holds the config. Optimizer moments are left
out: they are twice as large, and their run's checkpoint has them.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import checkpoint
from vitjax.interop import files, runs

PARTS = {"student/": "params/", "teacher/": "extra/ema/", "beside/": "extra/"}
FORMAT = "vitjax training state"


def save(path, folder) -> str:
    """Write the state of a run, or of checkpoints/STEP in one, to a new folder. Returns what it is,
    on one line."""
    settings, _, state = runs.state_of(path)
    arrays = {name: np.asarray(leaf) for name, leaf in checkpoint.flat(state).items()}
    tensors = {"step": arrays.pop("step")}
    for name, array in arrays.items():
        part = next(part for part, prefix in PARTS.items() if name.startswith(prefix))
        tensors[part + name.removeprefix(PARTS[part])] = array
    record = {"format": FORMAT, "config": settings}
    with files.whole(folder) as draft:
        files.write(draft, tensors, {"config.json": record}, archive=False)
    counts = {part: sum(name.startswith(part) for name in tensors) for part in PARTS}
    told = ", ".join(f"{count} of {part.rstrip('/')}" for part, count in counts.items() if count)
    return f"step {int(tensors['step'])}: arrays {told}"


def is_state(path) -> bool:
    """Whether a path is a folder that `save` wrote."""
    try:
        return json.loads((Path(path) / "config.json").read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load(path, folder) -> str:
    """Make such a folder a run's folder again, for `vitjax evaluate` and init_from. Returns what it
    is, on one line. Raises ValueError where names are none of a state's."""
    record = json.loads((Path(path) / "config.json").read_text())
    arrays = {}
    for name, tensor in files.read(path).items():
        part = next((part for part in PARTS if name.startswith(part)), None)
        if part is None and name != "step":
            raise ValueError(f"{path} holds {name}, which is no part of a training state")
        arrays[name if part is None else PARTS[part] + name.removeprefix(part)] = tensor
    state = checkpoint.unflatten(arrays)
    step = int(state["step"])
    state = {"params": {}, "extra": {}, "opt": {}} | state
    state["step"] = np.asarray(step, np.int32)
    with files.whole(folder) as draft:
        checkpoints = checkpoint.Checkpoints(draft / "checkpoints")
        checkpoints.save(step, jax.tree.map(jnp.asarray, state), {}, {})
        checkpoints.close()
        (draft / "config.json").write_text(
            json.dumps({"config": record["config"]}, indent=2) + "\n"
        )
    return f"step {step}: {len(arrays)} arrays"
