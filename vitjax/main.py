"""Train from a config: python -m vitjax.main --config configs/vit_s16.py --workdir runs/vit_s16"""

import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from vitjax.train import PREEMPTED, peers

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The recipe, e.g. configs/vit_s16.py, configs/vit_s16.py:smoke",
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; one that exists goes on.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For several processes: HOST:PORT of the first, with --processes and --process; or auto on TPU "
    "pods and under Slurm, where jax finds the others by itself.",
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes share the run.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
_PREVIEW = flags.DEFINE_bool(
    "preview", False, "Write a sheet of the views the model would see, and train nothing."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where an error was raised.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: flags begin with --")
    sys.exit(report_errors(train))


def train() -> int:
    """Exit status 0, or PREEMPTED. Several processes have to meet before jax knows its devices."""
    if _COORDINATOR.value is not None:
        peers.connect(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    from vitjax.train import loop, preview

    with peers.Peers(describe):
        if _PREVIEW.value:
            print(preview.preview(_CONFIG.value, _WORKDIR.value))
            return 0
        try:
            loop.run(_CONFIG.value, _WORKDIR.value)
        except loop.Preempted as stop:
            print(stop, file=sys.stderr)
            return PREEMPTED
    return 0


def report_errors(work) -> int:
    """Run `work() -> exit status`; what the user can mend becomes one line and exit status 2."""
    try:
        return work()
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            traceback.print_exc()
        return say(error)


def describe(error: BaseException) -> tuple[int, str]:
    """Exit status and last line of a process that is not alone; shows where an error was raised
    that is none of the user's."""
    if isinstance(error, (ValueError, OSError)):
        if _TRACEBACK.value:
            traceback.print_exception(error)
        return 2, one_line(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    traceback.print_exception(error)
    return 1, f"{type(error).__name__}: {one_line(error)}"


def say(error: BaseException) -> int:
    print("error: " + one_line(error), file=sys.stderr)
    return 2


def one_line(error: BaseException) -> str:
    """The flags library wraps what a config file raises, traceback and all: its last line is the
    message."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Traceback" in text:
        text = text.strip().splitlines()[-1].partition("Error: ")[2]
    return " ".join(text.split())


def parse(argv):
    """absl's parser; a wrong flag or override is one line too."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        sys.exit(say(error))


def cli():
    logging.set_verbosity(logging.WARNING)
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
