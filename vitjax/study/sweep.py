"""Runs the cells of a study on this machine; launchers.py has other machines do it.

What is finished is never repeated, what was interrupted goes on where it stopped, and what fails is
told and does not stop the rest. This process never touches jax: accelerators belong to the workers.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from vitjax.study import results
from vitjax.study.board import Board
from vitjax.study.grid import Plan
from vitjax.study.worker import LOG

GRACE = 120.0  # seconds a worker has to save what it is doing


class Worker:
    """A process that runs cells, see worker.py. cell: what it does now, a place in the grid."""

    def __init__(self, workdir: Path, jobs: int):
        self.cell = None
        self.ready = False
        self.log = workdir / "worker.txt"
        cores = max(1, len(os.sched_getaffinity(0)) // jobs)
        # XLA, OpenMP and BLAS would each start a thread per core, in every worker.
        threads = dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores))
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitjax.study.worker", str(workdir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | threads if jobs > 1 else None,
                start_new_session=True,  # Ctrl-C is for us: we tell the workers
            )
        self._rest = b""

    def ask(self, place: int) -> None:
        self.cell = place
        self.process.stdin.write(f"{place}\n".encode())
        self.process.stdin.flush()

    def events(self) -> list[dict] | None:
        """What it said since; None where it has ended."""
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> int:
        """Let go of it, and wait. Returns its exit status."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        status = self.process.wait()
        self.process.stdout.close()
        return status


def run(workdir: Path, plan: Plan, jobs: int = 1, board: Board | None = None) -> dict[str, str]:
    """Everything that is not finished, `jobs` cells at a time. Returns {name: error} of the failed.

    Raises ValueError where another sweep works in this folder, or a worker cannot start.
    KeyboardInterrupt or SIGTERM: runs save their state first.
    """
    if jobs < 1:
        raise ValueError(f"--jobs={jobs}: expected at least 1")
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir), _terminable():
        results.write_plan(workdir, plan)
        todo = deque(unfinished(workdir, plan))
        board = Board(plan) if board is None else board
        with board, contextlib.ExitStack() as stack:
            for cell in plan.grid.cells:
                found = results.read(results.folder_of(workdir, plan, cell))
                if found is not None:
                    board.known(cell, found)
            board.begin(len(todo), jobs)
            workers: list[Worker] = []
            stack.callback(_stop, workers)
            return _serve(workdir, plan, todo, min(jobs, len(todo)), workers, board)


def unfinished(workdir: Path, plan: Plan) -> list[int]:
    """Places in the grid of the cells without a result."""
    return [
        place
        for place, cell in enumerate(plan.grid.cells)
        if results.read(results.folder_of(workdir, plan, cell)) is None
    ]


def _serve(workdir, plan, todo, jobs, workers, board) -> dict[str, str]:
    cells, failed = plan.grid.cells, {}
    selector = selectors.DefaultSelector()

    def start():
        workers.append(Worker(workdir, jobs))
        selector.register(workers[-1].process.stdout, selectors.EVENT_READ, workers[-1])

    def give(worker):
        if todo:
            worker.ask(todo.popleft())
            board.started(cells[worker.cell])
        else:
            selector.unregister(worker.process.stdout)
            workers.remove(worker)
            worker.end()

    def finish(place, error):
        cell = cells[place]
        if error:
            failed[cell.name] = error
            board.failed(cell, error)
        else:
            board.finished(cell, results.read(results.folder_of(workdir, plan, cell)))

    def lost(worker):
        """It died: killed for its memory, say. Its cell has failed; another goes on."""
        selector.unregister(worker.process.stdout)
        workers.remove(worker)
        status = worker.end()
        if not worker.ready:
            raise ValueError(f"a worker could not start: {_last_line(worker.log)}")
        folder = results.folder_of(workdir, plan, cells[worker.cell])
        error = f"the process ended with exit status {status}: {_last_line(folder / LOG)}"
        results.fail(folder, error)
        finish(worker.cell, error)
        if todo:
            start()

    for _ in range(jobs):
        start()
    while workers:
        for key, _ in selector.select():
            worker = key.data
            events = worker.events()
            if events is None:
                lost(worker)
                continue
            for event in events:
                if "ready" in event:
                    worker.ready = True
                    give(worker)
                elif "what" in event:
                    board.doing(cells[event["place"]], event["what"])
                else:
                    finish(event["place"], event["error"])
                    give(worker)
    return failed


def run_here(
    workdir: Path, plan: Plan, places: Sequence[int], board: Board | None = None
) -> dict[str, str]:
    """Cells of these places, in this process: what a task of a Slurm array does. Several processes
    may share a cell, as they share any run."""
    import jax  # this process is the worker

    from vitjax.study import worker

    count = len(plan.grid.cells)
    for place in places:
        if not 0 <= place < count:
            raise ValueError(f"--cells: there is no cell {place}; the grid has 0 to {count - 1}")
    workdir.mkdir(parents=True, exist_ok=True)
    worker.setup(workdir)
    if jax.process_index() == 0:
        results.write_plan(workdir, plan)
    failed = {}
    with Board(plan) if board is None else board as board:
        board.begin(len(places), 1)
        for place in places:
            cell = plan.grid.cells[place]
            folder = results.folder_of(workdir, plan, cell)
            found = results.read(folder)
            if worker.agreed(found is not None):
                continue
            board.started(cell)
            error = worker.attempt(
                plan, cell, folder, lambda what, cell=cell: board.doing(cell, what)
            )
            if error:
                failed[cell.name] = error
                board.failed(cell, error)
            elif jax.process_index() == 0:  # which wrote it
                board.finished(cell, results.read(folder))
    return failed


def places_of(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]. Raises ValueError."""
    places = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"--cells={text!r}: expected places in the grid, as 0-2,5")
        places += range(int(first), int(last or first) + 1)
    return places


@contextlib.contextmanager
def _locked(workdir: Path):
    with (workdir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another sweep is running in {workdir}: wait for it or use another --workdir"
            ) from None
        yield


@contextlib.contextmanager
def _terminable():
    """SIGTERM is a KeyboardInterrupt: what is running saves its state."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(workers: list[Worker]) -> None:
    """Ask every worker to save and leave; after GRACE seconds no more is waited for."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
        worker.end()


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
