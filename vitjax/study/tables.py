"""The tables of a report, as CSV and JSON."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitjax.study import curves
from vitjax.study.analysis import View
from vitjax.study.results import Study, write_json

ENDS = ("", "_low", "_high")


def cells(study: Study) -> list[dict]:
    """One row per finished cell: its settings, its size, every number of its test."""
    keys = ("images", "subset", "steps", "epochs", "batch_size", "parameters", "flops_per_image")
    keys += ("flops", "lr", "train_top1", "seconds")
    return [
        r["cell"]
        | {key: r[key] for key in keys}
        | {k: r["numbers"][k] for k in sorted(r["numbers"])}
        for r in study.results
    ]


def trials(study: Study) -> list[dict]:
    """One row per learning rate of each cell."""
    return [r["cell"] | trial for r in study.results for trial in r["trials"]]


def points(views: list[View]) -> list[dict]:
    """One row per measure, encoder and size: mean and interval over seeds, in %."""
    rows = []
    for view in views:
        named = {measure.number: (measure.series, 100.0) for measure in view.measures}
        for number, (series, factor) in named.items():
            for each in series:
                found = curves.mean_interval(factor * (1 - each.error))
                rows += _points(view, number, each.name, found, np.isfinite(each.error).sum(1))
        for number, values in view.bias.items():
            for name, table in values.items():
                found = curves.mean_interval(table)
                rows += _points(view, number, name, found, np.isfinite(table).sum(1))
    return rows


def _points(view, number, name, found, seeds) -> list[dict]:
    return [
        _of(view)
        | {"number": number, "encoder": name, "images": view.images[i], "seeds": seeds[i]}
        | {f"mean{end}": found[k][i] for k, end in enumerate(ENDS)}
        for i in range(len(view.images))
        if seeds[i]
    ]


def fits(views: list[View]) -> list[dict]:
    """One row per fitted curve: e = floor + a (D / middle)^-b."""
    rows = []
    for view in views:
        for measure in view.measures:
            for name, fitted in measure.fits.items():
                if fitted is None:
                    continue
                row = _of(view) | {"number": measure.number, "encoder": name, "form": fitted.form}
                row["middle"] = fitted.curve.middle
                for key in ("a", "b", "floor"):
                    ends = curves.quantiles(getattr(fitted.draws, key))
                    values = (float(getattr(fitted.curve, key)), *ends)
                    row |= {f"{key}{end}": v for end, v in zip(ENDS, values, strict=True)}
                row |= {"loss": fitted.curve.loss, "rivals": len(fitted.curve.rivals)}
                row |= {"power_b": float(fitted.power.b), "power_rms": fitted.rms}
                row |= {f"held_out_{k}": fitted.held_out.get(k) for k in ("floor", "power")}
                row["local_slopes"] = " ".join(f"{slope:.3f}" for slope in fitted.slopes)
                row["trusted_beyond"] = fitted.trusted
                rows.append(row)
    return rows


def pairs(views: list[View]) -> list[dict]:
    """One row per pair and size. An infinite multiplier: more than the largest size; 0: fewer than
    the smallest."""
    rows = []
    for view in views:
        for measure in view.measures:
            for pair in measure.ordered:
                for row in pair.rows:
                    record = _of(view) | {"number": measure.number}
                    record |= {"first": pair.first, "second": pair.second, "images": row.images}
                    for key in ("gap", "ratio", "multiplier"):
                        record |= {
                            f"{key}{end}": v for end, v in zip(ENDS, getattr(row, key), strict=True)
                        }
                    rows.append(record | {"sign": row.sign})
    return rows


def verdicts(views: list[View]) -> list[dict]:
    """One row per pair: does the lead change, and where."""
    rows = []
    for view in views:
        for measure in view.measures:
            for pair in measure.ordered:
                found = pair.verdict
                record = _of(view) | {"number": measure.number}
                record |= {"first": pair.first, "second": pair.second, "verdict": found.kind}
                record |= {"leader": found.leader, "approach": found.approach}
                for key, value in (("crossing", found.at), ("trend", found.trend)):
                    ends = (None,) * 3 if value is None else value
                    record |= {f"{key}{end}": v for end, v in zip(ENDS, ends, strict=True)}
                rows.append(record | {"share_beyond": pair.share_beyond})
    return rows


def write(study: Study, views: list[View], sentences: list[str], out: Path) -> None:
    """cells, trials, points, fits, pairs and verdicts as CSV; all but the cells in report.json."""
    tables = {
        "cells": cells(study),
        "trials": trials(study),
        "points": points(views),
        "fits": fits(views),
        "pairs": pairs(views),
        "verdicts": verdicts(views),
    }
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
    environments = {str(r["environment"]): r["environment"] for r in study.results}
    record = {
        "source": study.plan.source,
        "summary": sentences,
        "failed": study.failed,
        "missing": [cell.name for cell in study.missing],
        "environments": list(environments.values()),
        **{name: rows for name, rows in tables.items() if name not in ("cells", "trials")},
    }
    write_json(out / "report.json", jsonable(record))


def write_csv(file: Path, rows: Iterable[dict]) -> None:
    rows = list(rows)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _short(v) for k, v in row.items()} for row in rows)


def _short(value):
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def jsonable(value):
    """JSON knows neither NumPy's numbers nor NaN; infinity is a word."""
    if isinstance(value, dict):
        return {key: jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "infinity"
    return value


def _of(view: View) -> dict:
    return {"objective": view.objective, "budget": view.budget}
