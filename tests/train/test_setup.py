"""What setup writes out: durations of an objective, and what follows from sizes."""

import dataclasses

import pytest

from vitjax.config import ConfigError
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup


@pytest.fixture
def self_supervised(recipe):
    del recipe["evaluators"]
    recipe["objective"] = {"name": "dinov2", "temperature_warmup_epochs": 2}
    return recipe


def test_sizes_and_durations_are_written_out_once(self_supervised):
    read = recipe_lib.read(self_supervised)
    resolved = setup.resolve(read, 160)
    assert resolved.objective["temperature_warmup_steps"] == 20  # 2 epochs of 160 images by 16
    assert resolved.objective["prototypes"] == 1024
    assert resolved.objective["momentum_steps"] == 4
    assert "temperature_warmup_epochs" not in resolved.objective
    # A run that goes on, or is looked at with other data, keeps what it was started with.
    assert setup.resolve(resolved, 10**6) == resolved
    supervised = dataclasses.replace(read, objective={"name": "supervised", "classes": 3})
    assert setup.resolve(supervised, 160).objective == supervised.objective


def test_a_teacher_needs_its_run_and_the_other_way_round(self_supervised):
    from vitjax.train import start

    for change in ({"teacher_from": "runs/x"}, {"objective": {"name": "dinov2", "teacher": {}}}):
        with pytest.raises(ConfigError, match=r"teacher_from and objective\.teacher"):
            start.check(recipe_lib.read(self_supervised | change))
