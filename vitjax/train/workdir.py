"""A run's folder: one config, one writer."""

import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import jax

from vitjax.train import recipe
from vitjax.whole import write_whole

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Workdir:
    """Opens the folder of a run for writing.

    Raises ValueError where it holds checkpoints of another config (the differing keys are named) or
    where another process is writing to it. Only process 0 writes.
    """

    def __init__(self, path, settings: dict):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))  # tuples become lists, as they are read back
        self._lock = None
        if jax.process_index() == 0:
            self._lock = (self.path / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"workdir {self.path} is being written by another run: wait for it or use "
                    "another --workdir"
                ) from None
        file = self.path / "config.json"
        trained = any((self.path / "checkpoints").glob("[0-9]*"))
        if file.exists() and trained:
            different = recipe.differences(json.loads(file.read_text())["config"], settings)
            if different:
                raise ValueError(
                    f"workdir {self.path} holds a run of another config; {'; '.join(different)}: "
                    "use another --workdir or the config it was started with"
                )
        if jax.process_index() == 0:
            record = {"config": settings, **environment()}
            write_whole(file, json.dumps(record, indent=2) + "\n")

    def close(self):
        if self._lock is not None:
            self._lock.close()


def environment() -> dict:
    """Versions, hardware and the git commit of the code: what a number needs beside it."""
    return {
        "versions": {"python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        "hardware": {
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "cpu_cores": os.cpu_count(),
        },
        "commit": _commit(),
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> str:
    """The commit of the checkout this code runs from, with "+" for changes; else ""."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
