"""Checkpoints: written while training goes on, verified before they are trusted, restored onto any
mesh.

One step's folder holds what Orbax writes (the State, the position in the data, the metrics) and
`manifest.json`: name, size and CRC-32 of every file. Orbax does not notice a flipped bit in array
data; the manifest does, and an older verified checkpoint is taken instead.
"""

import contextlib
import json
import math
import os
import shutil
import zlib
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vitjax.lookup import nearest
from vitjax.sharding.rules import path_of

MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one run.

    directory: their folder, made where it is missing. keep: how many of the newest stay. best: name
    of the metric whose best checkpoint stays too. minimise: the best is the lowest.
    """

    def __init__(self, directory, *, keep: int = 2, best: str | None = None, minimise=False):
        if keep < 1:
            raise ValueError(f"checkpoint.keep={keep}: at least 1 has to stay")
        self.directory = Path(directory).absolute()
        self._unverified = None
        policies = [preservation_policy.LatestN(keep)]
        track = {}
        if best is not None:
            # A run may go on with another `best`: what was saved before has no such number.
            worst = math.inf if minimise else -math.inf

            def value(metrics):
                return metrics.get(best, worst)

            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=value,
                    n=1,
                    reverse=minimise,
                    keep_checkpoints_without_metrics=False,
                )
            )
            track = {"best_fn": value, "best_mode": "min" if minimise else "max"}
        self.best = best
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                **track,
            ),
        )

    def save(self, step: int, state, data: dict, metrics: dict) -> None:
        """Start writing the checkpoint of a step; the state may be donated once this returns.

        data: the position in the data, JSON. metrics: the evaluation of this very step, for `best`,
        or {}. Raises ValueError, when all is saved, where they lack it.
        """
        self.wait()
        best = {self.best: metrics[self.best]} if self.best in metrics else None
        with self._named_failure(step):
            self._check_space(state)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave(data)
                ),
                metrics=best,
                force=True,
            )
        self._unverified = step
        if metrics and self.best is not None and best is None:
            self.wait()
            raise ValueError(
                f"checkpoint.best={self.best!r} is no number of an evaluation; "
                + nearest(self.best, metrics)
            )

    def poll(self) -> None:
        """Call it every step: finishes a save whose writing is over, and raises if it failed."""
        if self._unverified is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Block until the save under way is on disk. Raises OSError with one line if it failed."""
        step, self._unverified = self._unverified, None
        if step is None:
            return
        with self._named_failure(step):
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                _write_manifest(self.directory / str(step))

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step whose files are as they were written; None for a new run.

        Newer steps that are damaged are named and removed. A step without a manifest was cut off
        between Orbax's commit and ours: it is taken only where no step is verified. Raises
        ValueError where all are damaged: a run never silently starts afresh.
        """
        steps, chosen = self.steps(), -1
        if jax.process_index() == 0:
            faults = {step: verify(self.directory / str(step)) for step in reversed(steps)}
            bare = [step for step in faults if not (self.directory / str(step) / MANIFEST).exists()]
            intact = [step for step, found in faults.items() if not found]
            chosen = next(iter(intact or bare), -1)
            for step in [step for step in faults if step > chosen]:
                logging.error("checkpoint %d is damaged, it is removed: %s", step, faults[step][0])
            if chosen in bare:
                logging.warning("checkpoint %d has no %s: taken unverified", chosen, MANIFEST)
        if jax.process_count() > 1:
            chosen = int(multihost_utils.broadcast_one_to_all(np.asarray(chosen)))
        if steps and chosen < 0:
            raise ValueError(
                f"all {len(steps)} checkpoints in {self.directory} are damaged: restore one from a "
                "copy, or start with another --workdir"
            )
        for step in self.steps():
            if step > chosen:
                self._manager.delete(step)
        return chosen if steps else None

    def restore(self, step: int, target):
        """(state, data) of a step, each array placed as `target` says.

        target: a tree of ShapeDtypeStruct with shardings; the mesh may differ from the one that
        saved. Raises ValueError naming the arrays that are missing, unexpected or of another shape.
        """
        saved = self._manager.item_metadata(step)["state"].tree
        differences = compare(saved, target)
        if differences:
            raise ValueError(
                f"the checkpoint at step {step} in {self.directory} is of another model: "
                + summary(differences)
            )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
                ),
                data=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["data"]

    def _check_space(self, state) -> None:
        """Raise OSError before a write that cannot succeed: nothing is left half-written."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(f"it takes {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free")

    @contextlib.contextmanager
    def _named_failure(self, step: int):
        """Turns whatever a failed save raises into one line that says what is safe."""
        try:
            yield
        except Exception as error:
            # From disk: Orbax's list lacks what it would have let go of after this save.
            steps = [int(f.name) for f in self.directory.iterdir() if f.name.isdigit()]
            safe = max((each for each in steps if each != step), default=None)
            newest = "there is no earlier one" if safe is None else f"that of step {safe} is safe"
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.directory} "
                f"({newest}): {reason}"
            ) from error


def restore_parameters(path, targets, *, key="init_from", step=None, mover=None):
    """Parameters of another run's newest whole checkpoint, or of that of a step.

    path: the other run's workdir. targets: maps a subtree of State ("params", "extra") to a tree of
    ShapeDtypeStruct with shardings. key: what named the path, for messages. mover(name) -> how an
    array of that name is given another shape, (array, shape) -> array, or None. Returns (a dict of
    the subtrees with the arrays that fit, others left as the target's ShapeDtypeStruct; the
    differences by name, as `compare` gives them, and "resampled": those that `mover` moved).
    """
    directory = Path(path).absolute() / "checkpoints"
    if not directory.is_dir():
        raise ValueError(f"{key}={str(path)!r} holds no checkpoints/ folder: give a run's workdir")
    # Only to read: the other run may still be writing.
    manager = ocp.CheckpointManager(
        directory,
        item_handlers={"state": ocp.PyTreeCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(read_only=True),
    )
    with contextlib.closing(manager):
        steps = [s for s in sorted(manager.all_steps()) if step in (None, s)]
        intact = [s for s in steps if not verify(directory / str(s))]
        if not intact:
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise ValueError(f"{key}={str(path)!r} holds {which} that is whole")
        return _restore_fitting(manager, intact[-1], targets, mover or (lambda name: None))


def _restore_fitting(manager, step, targets, mover):
    saved = manager.item_metadata(step)["state"].tree
    saved = {name: saved[name] for name in targets}
    there, named = flat(saved), flat(targets)
    wanted, moved = {}, []
    for name, array in named.items():
        if name not in there:
            continue
        if tuple(there[name].shape) == tuple(array.shape):
            wanted[name] = array
        elif mover(name) is not None and len(there[name].shape) == len(array.shape):
            moved.append(name)
            whole = NamedSharding(array.sharding.mesh, PartitionSpec())
            wanted[name] = jax.ShapeDtypeStruct(there[name].shape, array.dtype, sharding=whole)
    item = unflatten(wanted)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                item,
                restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                partial_restore=True,
            )
        ),
    )["state"]
    arrays = flat(restored)
    for name in moved:
        moved_here = mover(name)(arrays[name], tuple(named[name].shape))
        arrays[name] = jax.device_put(moved_here, named[name].sharding)
    tree = jax.tree_util.tree_map_with_path(
        lambda key_path, array: arrays.get(path_of(key_path), array), targets
    )
    fits = unflatten({n: named[n] if n in moved else array for n, array in there.items()})
    differences = compare(fits, targets)
    if moved:
        differences["resampled"] = [
            f"{name} {tuple(there[name].shape)} to {tuple(named[name].shape)}" for name in moved
        ]
    return tree, differences


def locate(path) -> tuple[Path, int | None]:
    """The workdir and the step that a path names: a run's folder, or checkpoints/<step> in it."""
    path = Path(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def flat(tree) -> dict:
    """{"params/encoder/.../kernel": array} of a tree of arrays, structs or Orbax's metadata."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {path_of(key_path): leaf for key_path, leaf in leaves if hasattr(leaf, "shape")}


def unflatten(arrays: dict) -> dict:
    """The nested dict that `flat` came from."""
    tree = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def compare(saved, wanted) -> dict[str, list[str]]:
    """Names that differ, by kind: missing, unexpected, misshapen; empty kinds are left out."""
    saved, wanted = flat(saved), flat(wanted)
    differences = {
        "missing": [name for name in wanted if name not in saved],
        "unexpected": [name for name in saved if name not in wanted],
        "misshapen": [
            f"{name} {tuple(saved[name].shape)} there, {tuple(array.shape)} here"
            for name, array in wanted.items()
            if name in saved and tuple(saved[name].shape) != tuple(array.shape)
        ],
    }
    return {kind: names for kind, names in differences.items() if names}


def summary(differences: dict[str, list[str]], most: int = 4) -> str:
    """The differences on one line, the first few of each kind by name."""
    parts = []
    for kind, names in differences.items():
        if not names:
            continue
        more = f" and {len(names) - most} more" if len(names) > most else ""
        parts.append(f"{len(names)} {kind}: {', '.join(names[:most])}{more}")
    return "; ".join(parts)


def verify(folder: Path) -> list[str]:
    """Files that are not as the checkpoint's manifest says; a missing manifest is a fault too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return [f"{MANIFEST} cannot be read ({error.__class__.__name__})"]
    faults = []
    for name, (size, checksum) in manifest.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif file.stat().st_size != size:
            faults.append(f"{name} has {file.stat().st_size} bytes, {size} were written")
        elif _crc32(file) != checksum:
            faults.append(f"{name} is not what was written (checksum)")
    return faults


def _write_manifest(folder: Path) -> None:
    """Write it beside and rename: a manifest is whole or absent."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)
    manifest = {str(f.relative_to(folder)): [f.stat().st_size, _crc32(f)] for f in files}
    draft = folder / (MANIFEST + ".tmp")
    with draft.open("w") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / MANIFEST)


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
