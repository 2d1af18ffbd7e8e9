"""A study of seconds: tiny encoders on a few digits."""

import pytest

from tests.conftest import VIT
from vitjax.study.grid import Grid, Plan

CNN = {"name": "classic", "variant": "convpool"}


@pytest.fixture
def plan(recipe):
    """2 encoders x 2 sizes x 1 seed, 2 rates: change what a test is about."""
    del recipe["steps"]
    recipe["evaluators"] = {"accuracy": {}, "knn": {"k": [5]}}
    grid = Grid(
        encoders={"cnn": CNN, "vit": dict(VIT, scan=False)},
        fractions=[0.05, 0.1],
        seeds=[0],
        lrs=[1e-3, 3e-3],
        budgets={"steps": {"steps": 4}},
    )
    return Plan(recipe, grid, "tests")
