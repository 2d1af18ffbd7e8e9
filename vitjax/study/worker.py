"""A process that runs cells one after another: python -m vitjax.study.worker WORKDIR.

Starting Python, importing the libraries and compiling take longer than a tiny run; a process that
stays, and programs compiled once for all processes, take that away. It reads the places of cells
in the grid from standard input, one a line, and writes events to standard output as JSON lines. It
ends with its parent: the end of the input is the end of it.
"""

import contextlib
import functools
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path

from vitjax.study import results

LOG = "log.txt"


def main(workdir: str) -> None:
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no event
    asked = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    setup(Path(workdir))
    plan = results.read_plan(Path(workdir))
    cells = plan.grid.cells

    def tell(**event):
        with contextlib.suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")

    tell(ready=True)
    while True:
        place = asked.get()
        folder = results.folder_of(Path(workdir), plan, cells[place])
        with logged(folder):
            error = attempt(plan, cells[place], folder, functools.partial(doing, tell, place))
        tell(place=place, error=error)


def doing(tell, place: int, what: str) -> None:
    tell(place=place, what=what)


def attempt(plan, cell, folder: Path, progress) -> str:
    """Run a cell; "" or the error it ended with, which is kept in its folder too."""
    from vitjax.study import cell as cell_lib  # imports jax
    from vitjax.train import loop

    try:
        cell_lib.run(plan, cell, folder, progress)
    except loop.Preempted:
        raise
    except Exception as error:  # the other cells have nothing to do with it
        traceback.print_exc()
        text = " ".join(str(error).split()) or type(error).__name__
        results.fail(folder, text)
        return text
    return ""


def setup(workdir: Path) -> None:
    """Before anything is compiled: programs are kept beside the study, for every process of it."""
    import jax
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # Orbax's word on reading without writing
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def agreed(flag: bool) -> bool:
    """What process 0 holds for true, of those that share a cell."""
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


@contextlib.contextmanager
def logged(folder: Path):
    """Standard output and error go to the log of a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    with (folder / LOG).open("a") as log:
        try:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.dup2(2, 1)
            os.close(kept)


def _listen(asked: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        asked.put(int(line))
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
