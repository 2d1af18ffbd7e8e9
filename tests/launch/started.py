"""Runs started as a user starts them: a config file, a working directory, processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import psutil

from vitjax import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
LOCAL = str(ROOT / "launch" / "local.sh")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many simulated devices, under a port that nobody has."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "PORT": str(free_port()),
    }


def config_file(folder: pathlib.Path, settings: dict) -> str:
    """A config that says just these settings."""
    file = folder / "recipe.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config(arg=''):\n    return ConfigDict({json.loads(json.dumps(settings))!r})\n"
    )
    return str(file)


_STARTED: list[subprocess.Popen] = []


def start(arguments, environment) -> subprocess.Popen:
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
    _STARTED.append(process)
    return process


def end_all() -> None:
    """Kill what a test that failed has left, and what that has started."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()


def by_hand(processes: int, flags, environment) -> list[subprocess.Popen]:
    """The processes of a run as three flags make them, without a launcher."""
    main = [environment["PYTHON"], "-m", "vitjax.main"]
    where = ["--coordinator", f"127.0.0.1:{environment['PORT']}", "--processes", str(processes)]
    return [
        start([*main, *where, "--process", str(process), *flags], environment)
        for process in range(processes)
    ]


def last_line(errors: str) -> str:
    """The last thing a user sees."""
    return errors.strip().splitlines()[-1]


def saved_arrays(workdir, step: int) -> dict[str, np.ndarray]:
    """What the checkpoint of a step holds, by name, whatever mesh it was written on."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=one),
        checkpoints._manager.item_metadata(step)["state"].tree,
        is_leaf=lambda leaf: hasattr(leaf, "shape"),
    )
    arrays = checkpoint.flat(checkpoints.restore(step, target)[0])
    return {name: np.asarray(array) for name, array in arrays.items()}
