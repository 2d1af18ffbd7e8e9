"""Where the time of a run goes."""

import contextlib
import time
from collections import defaultdict

import jax

# Dense bf16 peak of one chip, FLOP/s, by a part of jax's device_kind; NVIDIA's and Google's data
# sheets.
PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "TPU v3": 61.5e12,  # jax sees each of the two cores of a chip
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


class Clock:
    """Seconds per phase since the run began, and the speed since the last report.

    examples: images done before this process started (a resumed run). flops: of one image forward
    and backward.
    """

    def __init__(self, flops: float):
        self.started = time.perf_counter()
        self.seconds = defaultdict(float)
        self.flops = flops
        self._window = {"time": self.started, "examples": 0, "steps": 0, "data": 0.0, "away": 0.0}
        self._steps = self._examples = 0

    @contextlib.contextmanager
    def phase(self, name: str):
        """Count the block's wall time under `name`: start, data, step, evaluate or save."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def count(self, examples: int) -> None:
        """One step with so many images is done."""
        self._steps += 1
        self._examples += examples

    def report(self) -> dict[str, float]:
        """Speed since the last report, evaluations and saves left out; {} before any step."""
        now = time.perf_counter()
        last = self._window
        away = self.seconds["evaluate"] + self.seconds["save"]
        seconds = (now - last["time"]) - (away - last["away"])
        steps, examples = self._steps - last["steps"], self._examples - last["examples"]
        data = self.seconds["data"] - last["data"]
        self._window = {
            "time": now,
            "examples": self._examples,
            "steps": self._steps,
            "data": self.seconds["data"],
            "away": away,
        }
        if not steps:
            return {}
        speed = {
            "speed/images_per_second": examples / seconds,
            "speed/step_ms": 1e3 * seconds / steps,
            "speed/data_wait": data / seconds,
        }
        peak = peak_flops()
        if peak is not None:
            speed["speed/mfu"] = examples * self.flops / (seconds * peak * jax.device_count())
        return speed

    def goodput(self) -> dict[str, float]:
        """Share of the wall time of this process spent in each phase."""
        total = time.perf_counter() - self.started
        return {f"goodput/{name}": seconds / total for name, seconds in self.seconds.items()}


def peak_flops() -> float | None:
    """Peak of one device of this run in FLOP/s, None where no data sheet gives it (a CPU)."""
    kind = jax.devices()[0].device_kind
    matches = [name for name in PEAK_FLOPS if name in kind]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def memory() -> dict[str, float]:
    """Most device memory used so far, in GiB, on the accelerators that tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"memory/device_gib": peak / 2**30}
