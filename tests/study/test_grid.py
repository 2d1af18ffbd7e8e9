"""The grid: the same for every encoder but the encoder; and what makes a cell another cell."""

import dataclasses

import pytest

from vitjax.config import ConfigError
from vitjax.study import grid as grid_lib
from vitjax.study.grid import Cell, Grid

BASE = dict(
    encoders={"cnn": {"name": "classic"}, "vit": {"name": "vit"}},
    fractions=[0.1, 1.0],
    seeds=[0, 1],
    lrs=[1e-3, 3e-3],
    budgets={"steps": {"steps": 100}},
)


def test_every_combination_is_a_cell_once():
    cells = Grid(**BASE).cells
    assert len(cells) == len(set(cells)) == 2 * 2 * 2
    assert {cell.name for cell in cells[:4]} == {
        f"{e}_supervised_f{f}_steps_s0" for e in ("cnn", "vit") for f in ("0.1", "1")
    }


def test_runs_of_two_encoders_differ_in_the_encoder_alone(plan):
    a = plan.trial(Cell("cnn", "supervised", 0.1, "steps", 3), 1e-3, 100)
    b = plan.trial(Cell("vit", "supervised", 0.1, "steps", 3), 1e-3, 100)
    assert {key for key in a if a[key] != b[key]} == {"encoder"}


def test_a_trial_knows_no_test_split(plan):
    cell = plan.grid.cells[0]
    trial = plan.trial(cell, 1e-3, 40)
    assert trial["data"]["test"] is None and set(trial["evaluators"]) == {"accuracy"}
    assert trial["optimizer"]["schedule"] == {"name": "cosine", "warmup_steps": 2}
    assert set(plan.shared(cell)["evaluators"]) == {"accuracy", "knn"}


def test_a_seed_draws_its_own_subset(plan):
    one, two = (plan.shared(Cell("cnn", "supervised", 0.1, "steps", s)) for s in (1, 2))
    assert (one["data"]["subset_seed"], two["data"]["subset_seed"]) == (1, 2)
    assert (one["seed"], two["seed"]) == (1, 2)


def test_the_digest_follows_what_the_numbers_depend_on(plan):
    cell = plan.grid.cells[0]

    def changed(**config):
        return plan._replace(config=plan.config | config).digest(cell)

    same = plan.digest(cell)
    assert changed(log={"every_steps": 7}, mesh={}) == same
    assert changed(data=plan.config["data"] | {"data_dir": "elsewhere"}) == same
    assert changed(batch_size=8) != same
    assert changed(evaluators={"accuracy": {}, "knn": {"k": [1]}}) != same
    for field, value in (
        ("lrs", [1e-3, 2e-3]),
        ("warmup", 0.1),
        ("budgets", {"steps": {"steps": 5}}),
    ):
        other = plan._replace(grid=dataclasses.replace(plan.grid, **{field: value}))
        assert other.digest(cell) != same
    wider = plan._replace(grid=dataclasses.replace(plan.grid, seeds=[0, 1], fractions=[0.05]))
    assert wider.digest(cell) == same  # the rest of the grid is nothing to it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": {"cnn": [1e-3], "vit": [1e-3, 3e-3]}}, "the one with more would be the better"),
        ({"lrs": {"cnn": [1e-3]}}, "sweep.lrs names cnn; expected cnn, vit"),
        ({"budgets": {"x": {"step": 3}}}, "sweep.budgets.x="),
        ({"budgets": {"x": {"steps": 3, "flops_of": "cnnn"}}}, "did you mean 'cnn'"),
        ({"fractions": []}, "sweep.fractions="),
        ({"fractions": [0.1, 0.1]}, "different numbers"),
        ({"encoders": {"a b": {}}}, "'a b' is no label"),
        ({"choose": "accuracy"}, "expected EVALUATOR/NUMBER"),
        ({"warmup": 1.5}, "sweep.warmup=1.5"),
    ],
)
def test_a_bad_grid_is_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        Grid(**BASE | change)
    assert "\n" not in str(error.value)


def test_a_config_without_a_grid_and_a_misspelt_key_are_named(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def get_config(arg=''):\n    pass\n")
    with pytest.raises(ConfigError, match=r"has no sweep\(arg\)"):
        grid_lib.load(str(file))
    file.write_text(
        file.read_text() + f"def sweep(arg=''):\n    return {BASE | {'sedes': [1]}!r}\n"
    )
    with pytest.raises(ConfigError, match=r"sweep\.sedes is unknown; did you mean 'seeds'"):
        grid_lib.load(str(file))
