"""A DINOv2 run on the digits: stopped and gone on, taken out and in, a teacher to another."""

import json

import jax
import numpy as np
import pytest

from vitjax import checkpoint
from vitjax.interop import runs
from vitjax.train import loop
from vitjax.verbs import convert, evaluate

VIEWS = {"name": "multicrop", "size": 8, "local_size": 4, "local_crops": 2, "blur_taps": 3}
OBJECTIVE = {"name": "dinov2", "prototypes": 32, "head_hidden": 16, "head_bottleneck": 8}
OBJECTIVE |= {"mask_least": 1, "monitor_steps": 2}


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    """(settings of a run of 4 steps, its folder, its numbers)."""
    chosen = settings | {
        "encoder": settings["encoder"] | {"pool": "cls", "mask_token": True},
        "objective": OBJECTIVE,
        "views": VIEWS,
        "evaluators": {"knn": {"k": [5]}},
        "checkpoint": {"keep": 3, "every_steps": 2},
    }
    folder = tmp_path_factory.mktemp("runs") / "dino"
    return chosen, folder, loop.run(chosen, folder)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_its_config_has_what_sizes_decided(made, tmp_path):
    settings, folder, numbers = made
    assert np.isfinite(numbers["train/loss"])
    written = json.loads((folder / "config.json").read_text())["config"]["objective"]
    assert written["momentum_steps"] == 4 and written["targets"] == "centering"
    for path in (folder / "checkpoints" / "4", folder / "checkpoints" / "2"):
        assert path.is_dir()
    part = tmp_path / "part"
    import shutil

    shutil.copytree(folder, part)
    shutil.rmtree(part / "checkpoints" / "4")
    loop.run(settings, part)
    _, _, one = runs.state_of(folder)
    _, _, two = runs.state_of(part)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.slow
def test_the_training_state_leaves_and_comes_back_whole(made, tmp_path, capsys):
    settings, folder, _ = made
    convert.run([str(folder), "--to", "training", "--out", str(tmp_path / "state")])
    assert "step 4" in capsys.readouterr().err
    convert.run([str(tmp_path / "state"), "--out", str(tmp_path / "run")])
    _, _, one = runs.state_of(folder)
    _, _, two = runs.state_of(tmp_path / "run")
    assert {"dino_head", "encoder"} <= set(two["extra"]["ema"]) & set(two["params"])
    jax.tree.map(np.testing.assert_array_equal, one, two)
    evaluate.run(["--checkpoint", str(tmp_path / "run"), "--evaluators", "knn"])
    numbers = loop.run(settings | {"init_from": str(tmp_path / "run")}, tmp_path / "on")
    assert np.isfinite(numbers["train/loss"])


@pytest.mark.slow
def test_a_student_of_another_size_learns_from_a_run(made, tmp_path):
    settings, folder, _ = made
    teacher = settings["encoder"]
    student = settings | {
        "encoder": teacher | {"width": 8, "mlp": 12},
        "objective": OBJECTIVE | {"teacher": teacher},
        "teacher_from": str(folder),
    }
    loop.run(student, tmp_path / "student")
    _, _, given = runs.state_of(folder)
    _, _, kept = runs.state_of(tmp_path / "student")
    jax.tree.map(np.testing.assert_array_equal, kept["extra"]["teacher"], given["extra"]["ema"])
    with pytest.raises(ValueError, match=r"teacher_from=[^\n]*misshapen"):
        wrong = student | {"objective": OBJECTIVE | {"teacher": teacher | {"width": 24}}}
        loop.run(wrong, tmp_path / "wrong")
    assert checkpoint.locate(folder)[1] is None
