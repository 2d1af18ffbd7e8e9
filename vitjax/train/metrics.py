"""Where the numbers of a run go: metrics.jsonl (the source for reports) and TensorBoard."""

import contextlib
import importlib
import json
import math
import os
from pathlib import Path

import jax
from absl import logging

from vitjax.whole import write_whole


class Writer:
    """Appends to `metrics.jsonl`, one object per line, and to TensorBoard through clu; process 0
    only.

    resume_step: the step the run goes on from; lines beyond it belong to work that is done again
    and are dropped.
    """

    def __init__(self, workdir: Path, resume_step: int = 0):
        self.file = workdir / "metrics.jsonl"
        self.history = []
        self._lines = self._board = None
        if jax.process_index() != 0:
            return
        if self.file.exists():
            self.history = [row for row in read(self.file) if row["step"] <= resume_step]
            write_whole(self.file, "".join(json.dumps(row) + "\n" for row in self.history))
        self._lines = self.file.open("a")
        self._board = _tensorboard(workdir)

    def write(self, step: int, values: dict[str, float | str | None]) -> None:
        """values: by names such as "train/loss" and "eval/<split>/<evaluator>/<number>".

        Raises OSError, naming the file, on a full disk.
        """
        values = finite(values)
        row = {"step": step} | values
        self.history.append(row)
        if self._lines is None:
            return
        try:
            self._lines.write(json.dumps(row) + "\n")
            self._lines.flush()
        except OSError as error:
            raise OSError(
                f"{self.file} could not be written at step {step}: {error.strerror}"
            ) from error
        if self._board is not None:
            numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
            self._board.write_scalars(step, numbers)

    def close(self) -> None:
        if self._lines is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take: said by `write`
                self._lines.close()
        if self._board is not None:
            self._board.close()


def finite(values: dict) -> dict:
    """JSON has no word for what is not finite: None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def read(file: Path) -> list[dict]:
    """The rows of a metrics.jsonl; a last line cut off by a kill is left out.

    Raises ValueError, naming the line, where another one is damaged.
    """
    lines, rows = file.read_text().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{file}, line {number} is damaged: mend or remove it") from None
    return rows


def curve(history: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _tensorboard(workdir: Path):
    """clu's writer; it imports tensorflow (seconds), so it is asked for only when a run starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        metric_writers = importlib.import_module("clu.metric_writers")
        return metric_writers.SummaryWriter(str(workdir))
    except ImportError as error:
        logging.warning("no TensorBoard events, metrics.jsonl only: %s", error)
        return None
