"""Where the time of a run goes."""

import contextlib
import resource
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

    flops: of one image, forward and backward. The first step, which compiles, counts for no speed.
    """

    AWAY = ("evaluate", "save")

    def __init__(self, flops: float):
        self.started = time.perf_counter()
        self.seconds = defaultdict(float)
        self.flops = flops
        self._mark = None
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
        if self._mark is None:
            self._set_mark()
            return
        self._steps += 1
        self._examples += examples

    def _set_mark(self) -> None:
        away = sum(self.seconds[name] for name in self.AWAY)
        self._mark = time.perf_counter(), away, self.seconds["data"]
        self._steps = self._examples = 0

    def report(self) -> dict[str, float]:
        """Speed since the last report, evaluations and saves left out; {} before two steps."""
        if not self._steps:
            return {}
        (then, away, data), steps, examples = self._mark, self._steps, self._examples
        self._set_mark()
        now, away_now, data_now = self._mark
        seconds = (now - then) - (away_now - away)
        speed = {
            "speed/images_per_second": examples / seconds,
            "speed/step_ms": 1e3 * seconds / steps,
            "speed/data_wait": (data_now - data) / seconds,
        }
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak is not None:
            speed["speed/mfu"] = examples * self.flops / (seconds * peak * jax.device_count())
        return speed

    def goodput(self) -> dict[str, float]:
        """Share of the wall time of this process spent in each phase."""
        total = time.perf_counter() - self.started
        return {f"goodput/{name}": seconds / total for name, seconds in self.seconds.items()}


def peak_flops(kind: str) -> float | None:
    """Peak of one device in FLOP/s, by jax's name of it; None where no data sheet gives it (a
    CPU)."""
    matches = [name for name in PEAK_FLOPS if name in kind]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def memory() -> dict[str, float]:
    """Most memory used so far, in GiB: of this process, and of its first accelerator."""
    values = {"memory/host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return values if peak is None else values | {"memory/device_gib": peak / 2**30}
