"""What makes Slurm, or Kubernetes with JobSet, run the cells of a study: a task for each."""

import copy
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitjax.study import results, sweep
from vitjax.study.grid import Plan
from vitjax.train import PREEMPTED

RESTARTS = 5  # of a cell, for what may pass
COMMAND = ("python", "-m", "vitjax", "sweep")  # in the image of launch/Dockerfile


def write_array(workdir: Path, plan: Plan, arguments: Sequence[str], jobs: int) -> Path:
    """array.sh: a Slurm array with a task for each unfinished cell. Partition, time and devices are
    for the command line of sbatch. arguments: of `vitjax sweep`, without launcher."""
    todo = spans(_todo(workdir, plan))
    (workdir / "slurm").mkdir(exist_ok=True)
    limit = f"%{jobs}" if jobs > 1 else ""
    command = shlex.join([sys.executable, "-m", "vitjax", "sweep", *arguments])
    file = workdir / "array.sh"
    file.write_text(
        f"""#!/bin/bash
#SBATCH --job-name=vitjax-study
#SBATCH --array={todo}{limit}
#SBATCH --output={workdir.absolute()}/slurm/%a.txt
#SBATCH --signal=TERM@120
cd {shlex.quote(os.getcwd())}
srun {command} --cells "$SLURM_ARRAY_TASK_ID"
"""
    )
    return file


def write_jobset(
    workdir: Path, plan: Plan, arguments: Sequence[str], jobs: int, template: Path
) -> Path:
    """jobset.json: `template`, a JobSet that trains, made to run the unfinished cells, `jobs` at a
    time, each on one machine. arguments: of `vitjax sweep`, without launcher, as they are inside
    the cluster. Raises ValueError for a template that is no JobSet of one container."""
    todo = _todo(workdir, plan)
    file = workdir / "jobset.json"
    file.write_text(json.dumps(jobset(_read(template), todo, arguments, jobs), indent=1) + "\n")
    return file


def jobset(template: dict, places: Sequence[int], arguments: Sequence[str], jobs: int) -> dict:
    """Image, volumes, machines and queue of the template; the rest says what a cell needs."""
    made = copy.deepcopy(template)
    made["metadata"]["generateName"] = "vitjax-study-"
    # The Jobs of a set have a node pool each: many cells are to share one.
    made["metadata"].pop("annotations", None)
    made["spec"]["failurePolicy"] = {"maxRestarts": 0}  # cells start again by themselves
    (group,) = made["spec"]["replicatedJobs"]
    group |= {"name": "cells", "replicas": 1}
    job = group["template"]["spec"]
    job.pop("backoffLimit", None)
    job |= {
        "completionMode": "Indexed",
        "completions": len(places),
        "parallelism": min(jobs, len(places)),
        # A cell that fails stays failed and stops none of the others.
        "backoffLimitPerIndex": RESTARTS,
        "maxFailedIndexes": len(places),
    }
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    job["podFailurePolicy"] = {
        "rules": [  # told to leave, or taken away: not counted
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [PREEMPTED]}},
            {"action": "Ignore", "onPodConditions": disrupted},
        ]
    }
    (container,) = job["template"]["spec"]["containers"]
    # exec: python is process 1 and receives SIGTERM, which no shell would pass on.
    container["command"] = ["bash", "-c"]
    container["args"] = [
        f"places=({' '.join(map(str, places))}); exec {shlex.join([*COMMAND, *arguments])} "
        '--cells "${places[JOB_COMPLETION_INDEX]}"'
    ]
    return made


def spans(places: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


def _todo(workdir: Path, plan: Plan) -> list[int]:
    """Places of the unfinished cells; the plan is written for those who will run them."""
    results.write_plan(workdir, plan)
    todo = sweep.unfinished(workdir, plan)
    if not todo:
        raise ValueError(f"every cell of {workdir} is finished: vitjax report {workdir}")
    return todo


def _read(file: Path) -> dict:
    import yaml  # of launchers alone

    try:
        template = yaml.safe_load(file.read_text())
        (group,) = template["spec"]["replicatedJobs"]
        (_,) = group["template"]["spec"]["template"]["spec"]["containers"]
        if template["kind"] != "JobSet":
            raise ValueError
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--template={str(file)!r}: expected a JobSet of one job with one container, as "
            "launch/gke_jobset.yaml"
        ) from error
    return template
