"""Every recipe in configs/ builds, and one train step of it has consistent shapes."""

import importlib.util
import pathlib

import jax
import pytest

from vitjax.config import ConfigError
from vitjax.sharding import mesh as mesh_lib
from vitjax.study import grid as grid_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup, start

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
STUDIES = [file for file in FILES if file.stem.startswith("study_")]


def load(file, arg=""):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def check_step(config):
    """Trace one train step and one evaluation batch; nothing is computed."""
    recipe = recipe_lib.read(config)
    start.check(recipe)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        experiment = setup.build(recipe, mesh, train_examples=1_281_167)
        setup.intervals(recipe, 1_281_167)
        batch = setup.batch_target(recipe, mesh)
        state, metrics = jax.eval_shape(experiment.step, experiment.target, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), experiment.target
        )
        assert {"loss", "grad_norm", "learning_rate", "skipped"} <= set(metrics)
        out = jax.eval_shape(
            experiment.frozen.encode(("logits",)),
            experiment.target.params,
            experiment.target.extra,
            batch,
        )
        assert out["pooled"].shape == (recipe.batch_size, experiment.encoder.width)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_builds_and_its_step_keeps_the_shape_of_the_state(file):
    check_step(load(file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_has_a_smoke_form(file):
    config = load(file, "smoke")
    assert config.steps == 3 and config.data.name in ("digits", "shapes")
    check_step(config)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_says_how_it_is_started(file):
    text = " ".join(file.read_text().split('"""')[1].split())
    assert f"python -m vitjax.main --config configs/{file.name}" in text
    if file in STUDIES:
        assert (
            f"vitjax sweep --config configs/{file.name}" in text and "vitjax report runs/" in text
        )


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_builds_with_each_of_its_encoders(file):
    """At full size, but for the data, which is not here."""
    plan = grid_lib.load(str(file))
    classes = plan.config["objective"]["classes"]
    for cell in dict.fromkeys(cell._replace(fraction=1.0, seed=0) for cell in plan.grid.cells):
        settings = plan.trial(cell, plan.grid.rates(cell.encoder)[-1], 1000)
        recipe = recipe_lib.read(settings)
        start.check(recipe)
        mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            experiment = setup.build(recipe, mesh, train_examples=1000)
        assert experiment.target.params["head"]["logits"]["bias"].shape == (classes,)
        assert experiment.flops > 0


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_has_a_smoke_form(file):
    plan = grid_lib.load(f"{file}:smoke")
    cell = plan.grid.cells[0]
    assert plan.config["data"]["name"] in ("digits", "shapes") and plan.digest(cell)


def test_arguments_change_the_structure():
    file = FILES[0].with_name("vit_b16.py")
    config = load(file, "variant=L/16,res=384")
    assert (config.encoder.variant, config.views.size) == ("L/16", 384)
    with pytest.raises(ConfigError, match="did you mean 'variant'"):
        load(file, "varant=L/16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach_size": 8}, "bach_size is unknown; did you mean 'batch_size'"),
        ({"encoder.pol": "gap"}, r"encoder\.pol is unknown; did you mean 'pool'"),
        ({"encoder.name": "vjt"}, r"encoder\.name='vjt' is unknown; did you mean 'vit'"),
        ({"objective.label_smoothin": 0.1}, "did you mean 'label_smoothing'"),
        ({"optimizer.wieght_decay": 0.1}, "did you mean 'weight_decay'"),
        ({"optimizer.name": "adam"}, "did you mean 'adamw'"),
        ({"optimizer.schedule.warmup_stps": 3}, "did you mean 'warmup_"),
        ({"views.mixupp": 0.1}, "did you mean 'mixup'"),
        ({"log.evry_steps": 1}, r"log\.evry_steps is unknown"),
        ({"data.minval": 0.1}, r"data\.minval is unknown; did you mean 'minival'"),
        ({"data.split_bye": "random"}, r"data\.split_bye is unknown; did you mean 'split_by'"),
        ({"input.treads": 2}, r"input\.treads is unknown; did you mean 'threads'"),
        ({"input.start": 2}, r"input\.start is unknown"),
        ({"evaluators.knm": {}}, "did you mean 'knn'"),
        ({"evaluators.knn": {"kk": 3}}, r"evaluators\.knn\.kk is unknown"),
        ({"evaluate.time_fracton": 1}, "did you mean 'time_fraction'"),
        ({"checkpoint.keap": 1}, r"checkpoint\.keap is unknown; did you mean 'keep'"),
        ({"eval_views.corp": 1.0}, r"eval_views\.corp is unknown; did you mean 'crop'"),
        ({"steps": None}, "the run has no length"),
        ({"epochs": 3}, "steps and epochs are both set"),
        ({"batch_size": 0}, "batch_size=0 is not a number above 0"),
        ({"precision": "half"}, "precision='half' is unknown"),
        ({"views.size": 9}, "image size"),
    ],
)
def test_a_bad_key_or_value_is_named_before_anything_is_computed(change, message):
    config = load(FILES[0].with_name("digits_vit.py"), "smoke")
    for key, value in change.items():
        *parents, leaf = key.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    with pytest.raises(ValueError, match=message) as error:
        check_step(config)
    assert "\n" not in str(error.value)
