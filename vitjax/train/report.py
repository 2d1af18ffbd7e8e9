"""What a run says of itself: metrics read one step late, averaged, written and shown."""

import importlib
import math
import statistics
from collections.abc import Callable, Mapping

import jax
from absl import logging

from vitjax.train.clock import Clock, memory
from vitjax.train.guard import SkipCounter
from vitjax.train.metrics import Writer
from vitjax.train.terminal import Terminal


class Reporter:
    """Takes the metrics of each step while they are still being computed; logs every `every` steps.

    The values of a step are fetched after its successor is dispatched, so that the device is
    never idle for the sake of a log line. Raises ValueError after too many skipped updates in a
    row.
    """

    def __init__(
        self,
        writer: Writer,
        terminal: Terminal,
        clock: Clock,
        every: int,
        last: int,
        alarm: Callable[[int, dict], str] = lambda step, metrics: "",
    ):
        self.writer, self.terminal, self.clock = writer, terminal, clock
        self.every, self.last, self.alarm, self._alarmed = every, last, alarm, ""
        self._skips, self._window, self._pending = SkipCounter(), [], None

    def step(self, step: int, values: dict) -> None:
        """values: metrics of a step that was just dispatched, device scalars."""
        self.flush()
        self._pending = step, values

    def flush(self) -> None:
        """Wait for the last dispatched step and take its metrics in."""
        if self._pending is None:
            return
        (step, values), self._pending = self._pending, None
        row = {name: float(value) for name, value in jax.device_get(values).items()}
        self._window.append(row)
        if step % self.every == 0 or step == self.last:
            self.log(step)
        self._skips.see(step, row)

    def log(self, step: int) -> None:
        """Write the means since the last row, and the speed."""
        if not self._window:
            return
        mean = {f"train/{name}": self._mean(name) for name in self._window[-1]}
        speed = self.clock.report()
        self.writer.write(step, mean | speed | memory() | self.clock.goodput())
        self.terminal.step(step, mean, speed)
        self._window.clear()
        self._worry(step, mean)

    def _worry(self, step: int, mean: dict) -> None:
        """Say what the objective finds wrong, once for as long as it goes on."""
        numbers = {name.removeprefix("train/"): value for name, value in mean.items()}
        said = self.alarm(step, numbers)
        kind = said.partition(":")[0] + said.partition(";")[2]
        if said and kind != self._alarmed:
            self.terminal.line(f"step {step}: {said}")
        self._alarmed = kind

    def _mean(self, name: str) -> float | None:
        """Mean over the steps whose value is finite, None without any; the rate is the latest."""
        values = [row[name] for row in self._window if math.isfinite(row[name])]
        if name == "learning_rate":
            return values[-1]
        return statistics.fmean(values) if values else None

    def evaluation(self, step: int, split: str, results: dict, failures: dict[str, str]) -> None:
        """One row in the file and one table on the terminal for a round; a line per failure."""
        self.writer.write(step, results)
        numbers = {
            name.removeprefix(f"eval/{split}/"): value
            for name, value in results.items()
            if not name.endswith("seconds")
        }
        self.terminal.table(f"step {step}, {split}", numbers)
        self.terminal.line(cost(split, results))
        for name, message in failures.items():
            self.terminal.line(f"no number of {name}: {message}")

    def unreadable(self, images: int) -> None:
        """Say how many images of the train split could not be read; each is named in the log."""
        if images:
            self.terminal.line(f"{images} unreadable images were replaced by their successors")

    def summary(self, final: dict[str, float], workdir) -> None:
        """The table a run ends with."""
        shown = {
            name.removeprefix("eval/"): value
            for name, value in final.items()
            if name.startswith("eval/") and not name.endswith(("seconds", "protocol"))
        }
        last = {
            name: final[name] for name in ("train/loss", "speed/images_per_second") if name in final
        }
        self.terminal.table("final numbers", last | shown)
        self.terminal.line(f"metrics, checkpoints and figures are in {workdir}")


def cost(split: str, results: dict[str, float]) -> str:
    """One line on what a round took, the dearest first."""
    seconds = {
        name.removeprefix(f"eval/{split}/").removesuffix("/seconds"): value
        for name, value in results.items()
        if name.endswith("/seconds")
    }
    dearest = sorted(seconds.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {value:.1f}" for name, value in dearest)
    return f"this round took {sum(seconds.values()):.1f} s: {parts}"


def headline(recipe, experiment, splits, first: int) -> str:
    """One line on what is about to run."""
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    shape = " x ".join(f"{size} {axis}" for axis, size in experiment.mesh.shape.items())
    start = f"from step {first}" if first else "from scratch"
    return (
        f"{experiment.encoder.name}, {recipe.objective['name']}, {experiment.steps} steps of "
        f"{recipe.batch_size} images {start}; {splits['train'].info.name}: {sizes}; mesh {shape}; "
        f"{experiment.flops / 1e9:.3g} GFLOP per image"
    )


def notes(given: Mapping, resolved: Mapping, objective) -> list[str]:
    """What the sizes of data and batch decided, and what the first loss should be."""
    filled = {key: value for key, value in resolved.items() if key not in given}
    lines = []
    if filled:
        said = ", ".join(f"{key}={value}" for key, value in filled.items())
        lines.append(f"from the sizes of data and batch: {said} (each an objective.* to set)")
    return lines + ([objective.expect] if objective.expect else [])


def parameter_table(params) -> str:
    """Name, shape, size and, in one process, mean and deviation of every parameter (by clu)."""
    try:
        overview = importlib.import_module("clu.parameter_overview")
    except ImportError as error:
        logging.warning("no parameter table: %s", error)
        return f"{count(params):,} parameters"
    # Statistics fetch every parameter: not where other processes hold a part of it.
    return overview.get_parameter_overview(params, include_stats=jax.process_count() == 1)


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
