"""The processes of one run end together, with the error of the one that failed.

A process that fails cannot simply exit: at exit jax waits for the others, and these wait for it in
a collective. So it leaves its error in the key-value store of jax's coordination service, where all
look once a second; each prints it as its last line and goes without waiting any more.

One that is killed can tell nobody. jax misses its heartbeat after 100 s and ends the others; less
than that ends runs that only had to wait for a processor (with 30 s, while they were compiling).
"""

import contextlib
import os
import re
import sys
import threading
import time

import jax
from jax._src import distributed

_KEY = "vitjax/failed"
_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = (
    5.0  # for the others to hear of it, before the process that holds the store goes
)
_FINISH_SECONDS = 600.0  # process 0 draws the figures while the others are done
# What a collective says when the process at its other end is gone, or far behind.
_LOST = re.compile(r"gloo|connection (reset|closed)|socket closed|coordination service", re.I)


def connect(coordinator: str, processes: int | None, process: int | None) -> None:
    """Meet the other processes; before this jax must not have looked for its devices.

    coordinator: HOST:PORT of process 0, or "auto" where jax finds the others by itself. Raises
    ValueError of one line.
    """
    if coordinator != "auto":
        if processes is None or process is None or not 0 <= process < processes:
            raise ValueError(
                f"--coordinator={coordinator} needs --processes and --process below it, got "
                f"--processes={processes} --process={process}"
            )
        jax.distributed.initialize(coordinator, processes, process)
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            "--coordinator=auto, but jax finds neither Slurm's variables nor a TPU pod here "
            f"({error}): start it with srun, or give --coordinator=HOST:PORT --processes=N "
            "--process=I"
        ) from error


class Peers:
    """A context around the work of this process; does nothing where it has no others.

    An exception inside is handed to `describe(error) -> (exit status, line)`, told to the others
    and ends all of them; it does not come out.
    """

    def __init__(self, describe):
        # The store has no public name; multihost_utils and Orbax take it from here too.
        self._client = distributed.global_state.client
        self._describe = describe
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        if self._client is not None:
            self._watcher.start()
        return self

    def __exit__(self, kind, error, _):
        if self._client is None:
            return False
        if kind is not None:
            self._fail(error)
        try:
            self._client.wait_at_barrier("vitjax/done", int(1e3 * _FINISH_SECONDS))
        except jax.errors.JaxRuntimeError as lost:
            self._fail(lost)
        self._done.set()
        self._watcher.join()
        return False

    def _watch(self):
        while not self._done.wait(_POLL_SECONDS):
            if (said := self._said()) is not None:
                self._leave(*said)

    def _said(self):
        """(exit status, line) of the process that failed first, None as long as none has."""
        try:
            status, process, line = self._client.key_value_try_get(_KEY).split(" ", 2)
        except jax.errors.JaxRuntimeError:  # there is none; or no store, which jax itself ends
            return None
        return int(status), f"error: process {process} failed: {line}"

    def _fail(self, error):
        lost = _LOST.search(str(error))
        if lost:  # the cause is another's, who may be about to tell
            time.sleep(2 * _POLL_SECONDS)
        status, line = self._describe(error)
        if lost:
            line = f"another process of this run does not answer, its output says why ({line})"
        self._done.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first, or is gone
            self._client.key_value_set(_KEY, f"{status} {jax.process_index()} {line}")
        self._leave(status, f"error: {line}")

    def _leave(self, status, line):
        show_cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar hides it
        print(show_cursor + line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.wait_at_barrier("vitjax/farewell", int(1e3 * _FAREWELL_SECONDS))
        os._exit(status)
