"""A cell: as many runs as rates; the best on held-out train data is tested, once."""

import json

import numpy as np
import pytest

from vitjax.data.splits import open_splits
from vitjax.study import cell as cell_lib
from vitjax.study import results
from vitjax.study.grid import Cell


@pytest.mark.slow
def test_the_best_rate_on_held_out_data_is_tested_once(plan, tmp_path, monkeypatch):
    tested = []
    real = cell_lib.reopen.open_run
    monkeypatch.setattr(
        cell_lib.reopen, "open_run", lambda s, path: tested.append(path.name) or real(s, path)
    )
    cell = plan.grid.cells[1]
    result = cell_lib.run(plan, cell, tmp_path)
    assert [trial["lr"] for trial in result["trials"]] == [1e-3, 3e-3]
    best = max(result["trials"], key=lambda t: (t["score"], -t["cross_entropy"]))
    assert result["lr"] == best["lr"] and tested == [f"{best['lr']:g}"]
    assert {"accuracy/top1", "knn/top1_k5"} <= set(result["numbers"])
    for trial in result["trials"]:  # no run has seen the test split, the chosen one neither
        lines = (tmp_path / "trials" / f"{trial['lr']:g}" / "metrics.jsonl").read_text()
        assert "eval/validation/accuracy/top1" in lines and "eval/test" not in lines
    chosen = [p.parent.name for p in (tmp_path / "trials").glob("*/checkpoints")]
    assert chosen == tested
    assert results.read(tmp_path) == json.loads(json.dumps(result))
    assert result["steps"] == 4 and result["flops"] == result["flops_per_image"] * 16 * 4
    assert not list(tmp_path.rglob("*.png"))  # nobody looks at the figures of a trial


def test_a_rate_that_does_not_work_loses_and_none_is_an_error(plan, tmp_path, monkeypatch):
    def run(settings, path):
        if settings["optimizer"]["lr"] == 3e-3:
            raise ValueError("loss was not finite")
        raise OSError("full")

    monkeypatch.setattr(cell_lib.loop, "run", run)
    with pytest.raises(OSError):  # not for want of a better rate
        cell_lib.run(plan, plan.grid.cells[0], tmp_path)
    monkeypatch.setattr(cell_lib.loop, "run", lambda s, p: run({"optimizer": {"lr": 3e-3}}, p))
    with pytest.raises(ValueError, match=r"none of the rates 0\.001, 0\.003 worked: loss was not"):
        cell_lib.run(plan, plan.grid.cells[0], tmp_path)


def test_subsets_of_a_grid_nest_and_balance_and_encoders_share_them(plan):
    def keys(encoder, fraction, seed):
        cell = Cell(encoder, "supervised", fraction, "steps", seed)
        return open_splits(**plan.shared(cell)["data"])["train"]

    for seed in (0, 1):
        small, large = keys("cnn", 0.05, seed), keys("cnn", 0.2, seed)
        assert set(small.keys()) < set(large.keys())
        assert set(small.keys()) == set(keys("vit", 0.05, seed).keys())
        counts = np.bincount(small.labels, minlength=10)
        assert counts.max() - counts.min() <= 1
    assert set(keys("cnn", 0.05, 0).keys()) != set(keys("cnn", 0.05, 1).keys())


def test_equal_flops_take_the_counts_of_the_encoders(plan):
    cell = Cell("vit", "supervised", 0.1, "flops", 0)
    grid = plan.grid.__class__(
        **{k: getattr(plan.grid, k) for k in plan.grid.__dataclass_fields__}
        | {"budgets": {"flops": {"steps": 40, "flops_of": "cnn"}}}
    )
    flops, reference = cell_lib.flops_of(plan._replace(grid=grid), cell)
    cnn = 8 * 8 * 27 * 32 + 4 * 4 * 288 * 64 + 2 * 2 * 64 * 256  # convpool's multiply-adds at 8 px
    assert reference == 6 * cnn and flops != reference
