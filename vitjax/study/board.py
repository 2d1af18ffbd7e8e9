"""What a person sees while a sweep goes on: a live table, or plain lines without a terminal."""

import statistics
import time
from collections import defaultdict

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from vitjax.study.grid import Cell, Plan


class Board:
    """One row per encoder, objective and budget; one column per share of the data. In a field: the
    mean over the seeds that are done, how many these are, and what is going on."""

    def __init__(self, plan: Plan, console: Console | None = None):
        self.plan = plan
        self.console = Console(stderr=True, markup=False) if console is None else console
        self.done: dict[Cell, dict] = {}
        self.errors: dict[Cell, str] = {}
        self.running: dict[Cell, str] = {}
        self.todo, self.ended, self.jobs = 0, 0, 1
        self._seconds, self._all = defaultdict(list), []
        self._began: dict[Cell, float] = {}
        self._live = self._bar = self._task = None

    def __enter__(self):
        if self.console.is_terminal:
            columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=len(self.plan.grid.cells), left="")
            self._live = Live(
                console=self.console, get_renderable=self._shown, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live is not None:
            self._live.stop()

    def begin(self, todo: int, jobs: int) -> None:
        """Called once what is done already is known."""
        self.todo, self.jobs = todo, jobs
        count = len(self.plan.grid.cells)
        self._line(f"{count} cells, {len(self.done)} finished before, {jobs} at a time")

    def known(self, cell: Cell, result: dict) -> None:
        """A cell that was finished before."""
        self.done[cell] = result
        self._learn(cell, result["seconds"])

    def started(self, cell: Cell) -> None:
        self.running[cell], self._began[cell] = "starting", time.monotonic()

    def doing(self, cell: Cell, what: str) -> None:
        self.running[cell] = what

    def finished(self, cell: Cell, result: dict) -> None:
        self.running.pop(cell, None)
        self.done[cell] = result
        self.ended += 1
        self._learn(cell, result["seconds"])
        number = score(result)
        shown = "" if number is None else f": {100 * number:.1f}%"
        self._line(
            f"{self._count()} {cell.text}{shown} (rate {result['lr']:g}, "
            f"{result['seconds']:.0f} s); {self.left()}"
        )

    def failed(self, cell: Cell, error: str) -> None:
        self.running.pop(cell, None)
        self.errors[cell] = error
        self.ended += 1
        self._line(f"{self._count()} {cell.text}: failed: {error}", always=True)

    def left(self) -> str:
        """How long the rest will take, from what cells of the same encoder took."""
        if not self._all:
            return "time left not known yet"
        now, rest = time.monotonic(), 0.0
        for cell in self.plan.grid.cells:
            if cell in self.done or cell in self.errors:
                continue
            took = self._seconds.get((cell.encoder, cell.objective, cell.budget), self._all)
            expected = statistics.median(took)  # one that was suspended tells nothing of others
            if cell in self.running:
                expected = max(0.0, expected - (now - self._began[cell]))
            rest += expected
        minutes, seconds = divmod(round(rest / self.jobs), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d} left"

    def table(self) -> Table:
        """The state of every cell."""
        grid, table = self.plan.grid, Table()
        several = len(grid.objectives) > 1, len(grid.budgets) > 1
        table.add_column("encoder")
        for fraction in grid.fractions:
            table.add_column(f"{100 * fraction:.3g}%", justify="right")
        for objective in grid.objectives:
            for budget in grid.budgets:
                for encoder in grid.encoders:
                    names = [encoder]
                    names += [objective] if several[0] else []
                    names += [budget] if several[1] else []
                    fields = [
                        self._field(
                            [Cell(encoder, objective, float(f), budget, s) for s in grid.seeds]
                        )
                        for f in grid.fractions
                    ]
                    table.add_row(", ".join(names), *fields)
        return table

    def _field(self, cells) -> str:
        numbers = [score(self.done[cell]) for cell in cells if cell in self.done]
        numbers = [number for number in numbers if number is not None]
        parts = [f"{100 * statistics.fmean(numbers):.1f}"] if numbers else []
        parts += [f"{sum(cell in self.done for cell in cells)}/{len(cells)}"]
        parts += [f"{n} failed" for n in [sum(cell in self.errors for cell in cells)] if n]
        parts += [self.running[cell] for cell in cells if cell in self.running]
        return " ".join(parts)

    def _shown(self):
        self._bar.update(self._task, completed=len(self.done) + len(self.errors), left=self.left())
        return Group(self.table(), self._bar)

    def _learn(self, cell: Cell, seconds: float) -> None:
        self._seconds[cell.encoder, cell.objective, cell.budget].append(seconds)
        self._all.append(seconds)

    def _count(self) -> str:
        return f"[{self.ended}/{self.todo}]"

    def _line(self, text: str, always: bool = False) -> None:
        if self._live is None or always:
            self.console.print(text, highlight=False, soft_wrap=True)


def score(result: dict) -> float | None:
    """The first top-1 number of a result, for the eye."""
    return next((v for k, v in result["numbers"].items() if "/top1" in k), None)
