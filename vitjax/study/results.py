"""What a study has so far: one folder per cell, with result.json when it is done.

runs/study/
    sweep.json                the config and the grid
    cells/<name>-<digest>/    result.json, or failed.json with the last error; log.txt
        trials/<rate>/        a run's folder, see docs/house.md
    report/                   what `vitjax report` made of it
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vitjax.study.grid import Cell, Grid, Plan
from vitjax.whole import write_whole

RESULT, FAILED, SWEEP = "result.json", "failed.json", "sweep.json"


class Study(NamedTuple):
    """results: of the finished cells. failed: name of a cell -> its last error. missing: cells that
    have neither."""

    plan: Plan
    results: tuple[dict, ...]
    failed: dict[str, str]
    missing: tuple[Cell, ...]


def folder_of(workdir: Path, plan: Plan, cell: Cell) -> Path:
    """Other settings are another folder: what is finished is never mistaken for them."""
    return Path(workdir) / "cells" / f"{cell.name}-{plan.digest(cell)}"


def write(folder: Path, result: Mapping) -> None:
    """Whole, or not at all."""
    write_json(folder / RESULT, result)
    (folder / FAILED).unlink(missing_ok=True)


def read(folder: Path) -> dict | None:
    """The result of a finished cell; None where there is none."""
    file = folder / RESULT
    return json.loads(file.read_text()) if file.exists() else None


def write_json(file: Path, value) -> None:
    """Whole, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(value, indent=1) + "\n")


def fail(folder: Path, error: str) -> None:
    """The last error of a cell, until it is run again."""
    write_json(folder / FAILED, {"error": error})


def write_plan(workdir: Path, plan: Plan) -> None:
    """What the folder is a study of; workers and the report read it."""
    grid = {key: getattr(plan.grid, key) for key in plan.grid.__dataclass_fields__}
    record = {"source": plan.source, "config": plan.config, "grid": grid}
    write_json(Path(workdir) / SWEEP, record)


def read_plan(workdir: Path) -> Plan:
    """Raises ValueError where a folder is no study's."""
    file = Path(workdir) / SWEEP
    try:
        record = json.loads(file.read_text())
        return Plan(record["config"], Grid(**record["grid"]), record["source"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(workdir)!r} is no folder of a study: {file} cannot be read "
            f"({type(error).__name__}); vitjax sweep --workdir makes one"
        ) from error


def read_study(workdir: Path) -> Study:
    """Raises ValueError where a folder is no study's."""
    plan = read_plan(workdir)
    found, failed, missing = [], {}, []
    for cell in plan.grid.cells:
        folder = folder_of(workdir, plan, cell)
        result = read(folder)
        if result is not None:
            found.append(result)
        elif (folder / FAILED).exists():
            failed[cell.name] = json.loads((folder / FAILED).read_text())["error"]
        else:
            missing.append(cell)
    return Study(plan, tuple(found), failed, tuple(missing))
