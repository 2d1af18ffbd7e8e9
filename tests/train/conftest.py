"""A tiny run on the digits, prepared once: what the tests of the trainer vary."""

import copy

import pytest

from vitjax.data import prepare

VIT = {"name": "vit", "variant": "Ti/2", "width": 16, "depth": 2, "mlp": 24, "heads": 2}


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Where the digits lie as ArrayRecord."""
    folder = tmp_path_factory.mktemp("digits")
    prepare.prepare_digits(folder, "random")
    return str(folder)


@pytest.fixture
def recipe(settings):
    """Settings of a run of 4 steps; change what a test is about."""
    return copy.deepcopy(settings)


@pytest.fixture(scope="session")
def settings(digits):
    """What `recipe` copies."""
    return {
        "batch_size": 16,
        "steps": 4,
        "encoder": VIT,
        "objective": {"name": "supervised", "classes": 10},
        "data": {"name": "digits", "data_dir": digits, "fraction": 0.1},
        "input": {"canvas": 8, "threads": 1},
        "views": {"size": 8, "crop": "pad", "pad": 1, "flip": False},
        "eval_views": {"crop": 1.0},
        "optimizer": {
            "name": "adamw",
            "lr": 3e-3,
            "schedule": {"name": "cosine", "warmup_steps": 1},
        },
        "evaluators": {"accuracy": {}, "knn": {"k": [5]}},
        "evaluate": {"train_examples": 50},
        "checkpoint": {"keep": 2},
        "log": {"every_steps": 1},
    }
