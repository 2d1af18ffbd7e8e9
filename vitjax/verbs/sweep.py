"""vitjax sweep: run a study, every cell of its grid, or go on with it."""

import argparse
import sys
from pathlib import Path

from absl import logging
from rich.console import Console

from vitjax.study import grid, launchers, sweep
from vitjax.train import PREEMPTED

LAUNCHERS = ("local", "slurm", "jobset")


def run(argv: list[str]) -> None:
    """Exits with 1 where a cell failed."""
    parser = argparse.ArgumentParser(prog="vitjax sweep", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE[:ARGS] with get_config and sweep")
    parser.add_argument(
        "--workdir", required=True, help="folder of the study; one that exists goes on"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument(
        *("--launcher",),
        default="local",
        choices=LAUNCHERS,
        help="slurm: write WORKDIR/array.sh for sbatch; jobset: WORKDIR/jobset.json for kubectl; "
        "and run nothing",
    )
    parser.add_argument(
        "--template", help="with jobset: the JobSet to take image, machines and volumes from"
    )
    parser.add_argument(
        "--cells", help="only these, by place in the grid and in this process: 0-2,5"
    )
    parser.add_argument(
        "--coordinator",
        choices=["auto"],
        help="with --cells: several processes share each cell; jax finds them, as under srun",
    )
    parser.add_argument(
        *("--set",), action="append", default=[], metavar="KEY=VALUE", help="any key of the config"
    )
    args = parser.parse_args(argv)
    if args.coordinator and args.cells is None:
        raise ValueError("--coordinator: only with --cells; a sweep starts its own processes")
    if (args.launcher == "jobset") != (args.template is not None):
        raise ValueError(
            "--launcher=jobset needs a --template, as launch/gke_jobset.yaml, and no other takes "
            f"one: --launcher={args.launcher}, --template={args.template}"
        )
    plan = grid.load(args.config)
    if args.set:
        from vitjax.verbs import arguments  # imports jax, which a sweep does without

        for text in args.set:
            arguments.assign(plan.config, text)
    workdir, console = Path(args.workdir), Console(stderr=True, markup=False)
    if args.launcher != "local":
        _write(args, workdir, plan, console)
        return
    logging.set_verbosity(logging.WARNING)
    try:
        failed = _run(args, workdir, plan)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with {workdir}", soft_wrap=True)
        sys.exit(PREEMPTED)
    if failed:
        console.print(f"{len(failed)} of {len(plan.grid.cells)} cells failed:", highlight=False)
        for name, error in failed.items():
            console.print(f"  {name}: {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    console.print(f"vitjax report {workdir}", highlight=False, soft_wrap=True)


def _write(args, workdir: Path, plan: grid.Plan, console: Console) -> None:
    """The file that another launcher takes, and the command that takes it."""
    passed = ["--config", args.config, "--workdir", str(workdir.absolute())]
    passed += [part for text in args.set for part in ("--set", text)]
    if args.launcher == "slurm":
        command = f"sbatch {launchers.write_array(workdir, plan, passed, args.jobs)}"
    else:
        template = Path(args.template)
        file = launchers.write_jobset(workdir, plan, passed, args.jobs, template)
        command = f"kubectl create -f {file}"
    console.print(command, highlight=False, soft_wrap=True)


def _run(args, workdir: Path, plan: grid.Plan) -> dict[str, str]:
    if args.cells is None:
        return sweep.run(workdir, plan, args.jobs)
    if args.coordinator:
        # Imports jax: a local sweep leaves the accelerators to its workers.
        from vitjax.train import peers

        peers.connect("auto", None, None)
    from vitjax.train import loop

    try:
        return sweep.run_here(workdir, plan, sweep.places_of(args.cells))
    except loop.Preempted as stop:
        raise KeyboardInterrupt from stop
