"""Whole runs on the digits: resumed exactly, on any mesh, and stopped without loss."""

import json

import jax
import numpy as np
import pytest

from vitjax import checkpoint, evaluators
from vitjax.ops.position import resample
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import guard, loop, metrics, setup, start
from vitjax.train import recipe as recipe_lib
from vitjax.train.workdir import Workdir


class StopAfter(guard.Preemption):
    """A signal that comes during a given step."""

    step = 2

    def asked(self, step):
        return step == self.step


def stopped(recipe, workdir, monkeypatch, step):
    """Run until a signal during `step`."""
    with monkeypatch.context() as patch:
        patch.setattr(StopAfter, "step", step)
        patch.setattr(loop, "Preemption", StopAfter)
        with pytest.raises(loop.Preempted, match=f"step {step} of 4 is saved"):
            loop.run(recipe, workdir)


def final_state(recipe, workdir):
    """The last checkpoint of a run, on this process's devices."""
    recipe = recipe_lib.read(recipe)
    mesh = mesh_lib.make_mesh(**recipe.mesh)
    with jax.set_mesh(mesh):
        experiment = setup.build(recipe, mesh, train_examples=100)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    return checkpoints.restore(checkpoints.latest(), experiment.target)


def trace(workdir, name="train/loss"):
    return metrics.curve(metrics.read(workdir / "metrics.jsonl"), name)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """An uninterrupted run of 4 steps, which no test changes."""
    workdir = tmp_path_factory.mktemp("whole")
    loop.run(settings, workdir)
    return workdir


def test_a_run_leaves_metrics_checkpoints_figures_and_its_config(recipe, whole):
    steps, losses = trace(whole)
    assert steps == [1, 2, 3, 4] and np.isfinite(losses).all()
    rows = metrics.read(whole / "metrics.jsonl")
    names = {name for row in rows for name in row}
    assert {
        "train/grad_norm",
        "train/learning_rate",
        "speed/images_per_second",
        "speed/data_wait",
        "goodput/step",
        "eval/validation/accuracy/top1",
        "eval/validation/knn/top1_k5",
        "eval/validation/knn/seconds",
        "eval/test/accuracy/top1",
    } <= names
    assert sum("eval/test/accuracy/top1" in row for row in rows) == 1  # touched once
    saved = json.loads((whole / "config.json").read_text())
    assert saved["config"] == json.loads(json.dumps(recipe)) and saved["versions"]["jax"]
    figures = {file.name for file in (whole / "figures").iterdir()}
    assert figures == {"loss.png", "learning_rate.png", "accuracy.png", "predictions.png"}
    assert list(whole.glob("events.out.tfevents*"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("encoder", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    recipe, tmp_path, monkeypatch, encoder
):
    if encoder == "resnet":
        recipe["encoder"] = {"name": "resnet", "variant": "18", "width": 0.125, "stem": "small"}
    recipe["evaluators"] = {}
    recipe["objective"]["ema_decay"] = 0.9
    recipe["views"]["mixup"] = 0.5
    loop.run(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "parts", monkeypatch, 2)
    loop.run(recipe, tmp_path / "parts")
    assert trace(tmp_path / "whole") == trace(tmp_path / "parts")
    one, position = final_state(recipe, tmp_path / "whole")
    two, again = final_state(recipe, tmp_path / "parts")
    assert position == again and position["position"] == 4 * 16
    jax.tree.map(np.testing.assert_array_equal, one, two)


def rounds_of(workdir):
    return trace(workdir, "eval/validation/accuracy/top1")


def test_a_round_that_was_due_when_told_to_leave_is_made_up_for(recipe, tmp_path, monkeypatch):
    recipe["evaluators"] = {"accuracy": {}}
    recipe["evaluate"] = {"every_steps": 2}
    loop.run(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "parts", monkeypatch, 2)
    assert rounds_of(tmp_path / "parts") == ([], [])
    loop.run(recipe, tmp_path / "parts")
    assert rounds_of(tmp_path / "whole") == rounds_of(tmp_path / "parts")
    assert rounds_of(tmp_path / "whole")[0] == [2, 4]


def test_a_round_that_fails_costs_no_training(recipe, tmp_path, monkeypatch):
    recipe["evaluators"] = {"accuracy": {}}
    with monkeypatch.context() as patch:
        broken = evaluators.Evaluator(lambda train, validation: 1 / 0, lambda: None)
        patch.setitem(evaluators.EVALUATORS, "accuracy", broken)
        with pytest.raises(ZeroDivisionError):
            loop.run(recipe, tmp_path / "run")
    assert int(final_state(recipe, tmp_path / "run")[0].step) == 4
    loop.run(recipe, tmp_path / "run")
    assert rounds_of(tmp_path / "run")[0] == [4] and trace(tmp_path / "run")[0] == [1, 2, 3, 4]


def test_another_best_may_be_kept_when_a_run_goes_on(recipe, tmp_path, monkeypatch):
    recipe["evaluators"] = {"accuracy": {}}
    recipe["evaluate"] = {"every_steps": 1}
    recipe["checkpoint"] = {"keep": 1, "best": "eval/validation/accuracy/top1"}
    stopped(recipe, tmp_path / "run", monkeypatch, 3)
    recipe["checkpoint"]["best"] = "eval/validation/accuracy/cross_entropy"
    recipe["checkpoint"]["minimise"] = True
    loop.run(recipe, tmp_path / "run")
    assert rounds_of(tmp_path / "run")[0] == [1, 2, 3, 4]
    assert int(final_state(recipe, tmp_path / "run")[0].step) == 4


def test_a_misnamed_best_costs_no_training(recipe, tmp_path):
    recipe["evaluators"] = {"accuracy": {}}
    recipe["checkpoint"] = {"best": "eval/validation/accuracy/top2"}
    with pytest.raises(ValueError, match="top2' is no number of an evaluation; did you mean"):
        loop.run(recipe, tmp_path / "run")
    assert int(final_state(recipe, tmp_path / "run")[0].step) == 4


def test_a_run_goes_on_on_another_mesh(recipe, whole, tmp_path, monkeypatch):
    stopped(recipe | {"evaluators": {}}, tmp_path / "moved", monkeypatch, 2)
    recipe["mesh"] = {"data": 2, "model": 2, "replica": 2}
    recipe["sharding"] = {"min_size": 0}
    recipe["evaluators"] = {}
    loop.run(recipe, tmp_path / "moved")
    np.testing.assert_allclose(trace(tmp_path / "moved")[1], trace(whole)[1], rtol=2e-5)


def test_a_finished_run_is_not_done_again(recipe, whole):
    before = (whole / "metrics.jsonl").read_text()
    numbers = loop.run(recipe, whole)
    assert (whole / "metrics.jsonl").read_text() == before
    assert "eval/test/accuracy/top1" in numbers


def test_the_workdir_of_another_config_is_refused_by_key(recipe, whole):
    recipe["optimizer"]["lr"] = 1e-2
    recipe["evaluators"] = {}  # what does not change the run may change
    with pytest.raises(ValueError, match=r"optimizer\.lr: 0\.003 there, 0\.01 here") as error:
        loop.run(recipe, whole)
    assert "evaluators" not in str(error.value)


def test_a_second_writer_is_refused(recipe, tmp_path):
    first = Workdir(tmp_path / "run", recipe)
    with pytest.raises(ValueError, match="is being written by another run"):
        Workdir(tmp_path / "run", recipe)
    first.close()
    Workdir(tmp_path / "run", recipe).close()


def test_a_run_starts_from_the_weights_of_another(recipe, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(whole.parent)
    recipe |= {"init_from": whole.name, "steps": 1, "evaluators": {}}
    recipe["optimizer"] = {"name": "sgd", "lr": 0.0, "schedule": {"name": "constant"}}
    loop.run(recipe, tmp_path / "tuned")
    old, _ = final_state(recipe | {"optimizer": ADAMW}, whole)
    new, _ = final_state(recipe, tmp_path / "tuned")
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)


def test_averages_are_taken_together(recipe, tmp_path):
    recipe["encoder"] = {"name": "resnet", "variant": "18", "width": 0.125, "stem": "small"}
    recipe |= {"objective": recipe["objective"] | {"ema_decay": 0.9}, "evaluators": {}}
    loop.run(recipe, tmp_path / "averaged")
    old, _ = final_state(recipe, tmp_path / "averaged")
    prepared = start.prepare(recipe | {"init_from": str(tmp_path / "averaged")})
    experiment = prepared.experiment
    with jax.set_mesh(experiment.mesh):
        new = start.adopt(prepared.recipe, experiment.init(), experiment.target)
    jax.tree.map(np.testing.assert_array_equal, new.params, old.extra["ema"])
    jax.tree.map(np.testing.assert_array_equal, new.extra["stats"], old.extra["ema_stats"])
    different = jax.tree.map(
        lambda a, b: bool((a != b).any()), old.extra["stats"], old.extra["ema_stats"]
    )
    assert any(jax.tree.leaves(different))


def test_weights_made_for_another_image_size_are_resampled(recipe, whole, tmp_path):
    recipe |= {"init_from": str(whole), "steps": 1, "evaluators": {}}
    recipe["optimizer"] = {"name": "sgd", "lr": 0.0, "schedule": {"name": "constant"}}
    recipe["views"] = recipe["views"] | {"size": 12}
    loop.run(recipe, tmp_path / "larger")
    old, _ = final_state(recipe | {"optimizer": ADAMW, "views": {"size": 8}}, whole)
    new, _ = final_state(recipe, tmp_path / "larger")
    table = old.params["encoder"]["position_embedding"]
    got = new.params["encoder"].pop("position_embedding")
    want = resample(old.params["encoder"].pop("position_embedding"), 6, 6, "cubic_antialias")
    assert table.shape == (4, 4, 16) and got.shape == (6, 6, 16)
    np.testing.assert_allclose(got, want, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)


ADAMW = {"name": "adamw", "lr": 3e-3, "schedule": {"name": "constant"}}


def test_weights_of_another_encoder_are_refused_by_name(recipe, whole, tmp_path):
    recipe |= {"init_from": str(whole), "encoder": recipe["encoder"] | {"mlp": 40}}
    with pytest.raises(ValueError, match=r"blocks/mlp/down/bias|blocks/mlp/up/bias") as error:
        loop.run(recipe, tmp_path / "tuned")
    assert "another encoder" in str(error.value)


def test_losses_that_are_never_finite_end_the_run(recipe, tmp_path):
    recipe |= {"steps": 30, "evaluators": {}}
    recipe["optimizer"] = {"name": "sgd", "lr": 1e38, "schedule": {"name": "constant"}}
    with pytest.raises(ValueError, match=r"not finite for 10 steps in a row.*lower optimizer\.lr"):
        loop.run(recipe, tmp_path / "broken")


def test_a_run_that_ends_on_no_number_says_so(recipe, tmp_path, capsys):
    recipe["evaluators"] = {"accuracy": {}}
    recipe["optimizer"] = {"name": "sgd", "lr": 1e38, "schedule": {"name": "constant"}}
    loop.run(recipe, tmp_path / "run")
    assert "not finite" in capsys.readouterr().err.split("final numbers")[1]
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_classes_must_be_those_of_the_data(recipe, tmp_path):
    recipe["objective"]["classes"] = 7
    with pytest.raises(ValueError, match=r"objective\.classes=7, but .* has 10 classes"):
        loop.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
