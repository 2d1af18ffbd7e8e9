"""What a person sees while a run goes on: on standard error, from process 0."""

import sys
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_SECONDS = 10.0


class Terminal:
    """A progress bar with images/s and time left; without a terminal, a line every few seconds."""

    def __init__(self, steps: int, first: int):
        self.steps, self.first = steps, first
        self.console = Console(stderr=True, quiet=jax.process_index() != 0, markup=False)
        self._started = self._said = time.perf_counter()
        self._bar = self._task = None
        if self.console.is_terminal and jax.process_index() == 0:
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("", total=steps, completed=first, text="compiling")
            self._bar.start()

    def step(self, step: int, metrics: dict, speed: dict) -> None:
        """Called at every logged step, with the latest metrics and speed."""
        loss = metrics["train/loss"]
        text = "loss not finite" if loss is None else f"loss {loss:.4f}"
        if "speed/images_per_second" in speed:
            text += f"  {speed['speed/images_per_second']:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.perf_counter()
        if now - self._said < PLAIN_SECONDS and step < self.steps:
            return
        self._said = now
        left = (now - self._started) / max(1, step - self.first) * (self.steps - step)
        self.line(f"step {step}/{self.steps}  {text}  {_clock(left)} left")

    def evaluating(self, what: str, done: int, of: int) -> None:
        """Called as an evaluation round goes on."""
        if self._bar is not None:
            self._bar.update(self._task, text=f"evaluating: {what} {done}/{of}")

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def table(self, title: str, rows: dict[str, float | str | None]) -> None:
        """One table per evaluation: a number a row; None: it was not finite."""
        self.line(title)
        self.console.print(numbers_table(rows))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        sys.stderr.flush()


def numbers_table(rows: dict[str, float | str | None]) -> Table:
    """A number a row; None: it was not finite."""
    table = Table(show_header=False)
    for name, value in rows.items():
        number = "not finite" if value is None else value
        table.add_row(name, f"{number:,.4g}" if isinstance(number, float) else str(number))
    return table


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
