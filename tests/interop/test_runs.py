"""Weights as a run's folder: what goes in comes out, and nothing else is asked for."""

import json
import shutil

import jax
import numpy as np
import pytest

from vitjax import interop
from vitjax.interop import runs
from vitjax.interop.layout import Preprocessing, Spec
from vitjax.interop.model import build
from vitjax.ops.position import resample

VIT = {"name": "vit", "variant": "Ti/4", "width": 16, "depth": 2, "mlp": 24, "heads": 2}
RESNET = {"name": "resnet", "variant": "18", "width": 0.0625}
MIXER = {
    "name": "mixer",
    "variant": "B/8",
    "width": 8,
    "depth": 1,
    "token_mlp": 4,
    "channel_mlp": 6,
}
LOOKS = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop=0.75, resize="bilinear")


def filled(spec, seed=0):
    """(model, variables): random numbers about as large as weights are."""
    model, rng = build(spec), np.random.RandomState(seed)

    def draw(leaf):
        return np.abs(0.2 + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    return model, jax.tree.map(draw, model.shapes())


@pytest.mark.parametrize(
    "spec",
    [
        Spec(VIT, classes=3, hidden=5, image_size=20, preprocessing=LOOKS),
        Spec(RESNET, classes=0, image_size=32, preprocessing=LOOKS),
    ],
)
def test_a_model_comes_back_from_its_folder_bit_for_bit(tmp_path, spec):
    model, variables = filled(spec)
    runs.write(model, variables, tmp_path, {"commit": "x"})
    assert json.loads((tmp_path / "config.json").read_text())["commit"] == "x"
    assert runs.is_run(tmp_path) and runs.is_run(tmp_path / "checkpoints" / "0")
    for path in (tmp_path, tmp_path / "checkpoints" / "0"):
        again, got = interop.load(path)
        assert again == model and again.spec == spec
        jax.tree.map(np.testing.assert_array_equal, got, variables)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    runs.write(*filled(Spec(VIT, classes=3, image_size=20)), folder, {})
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is no run"),
        (lambda folder: (folder / "checkpoints/0/manifest.json").unlink(), "that is whole"),
        (lambda folder: edit(folder, width=24, heads=3), "is of another model"),
    ],
)
def test_a_folder_that_is_no_whole_run_is_one_line(written, tmp_path, change, named):
    folder = shutil.copytree(written, tmp_path / "run")
    change(folder)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        interop.load(folder)
    assert named in str(error.value) and str(folder) in str(error.value)


def edit(folder, **encoder):
    record = json.loads((folder / "config.json").read_text())
    record["config"]["encoder"] |= encoder
    (folder / "config.json").write_text(json.dumps(record))


def test_the_config_of_a_run_says_its_layout_and_its_encoder(written):
    for given in ({"layout": "timm"}, {"heads": 4}):
        with pytest.raises(ValueError, match="is a run of ours: its layout and encoder are in"):
            interop.load(written, **given)


def test_another_size_of_images_is_what_the_encoder_would_have_made_of_it():
    model, variables = filled(Spec(VIT, classes=3, image_size=20))
    moved, arrays = runs.resized(model, variables, 12)
    assert moved.spec.image_size == 12 and model.spec.image_size == 20
    table = variables["encoder"]["position_embedding"]
    method = model.spec.settings()["resample"]
    expected = resample(table, 3, 3, method)
    np.testing.assert_array_equal(arrays["encoder"]["position_embedding"], expected)
    images = np.random.RandomState(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    want, _ = model.apply(variables, images)
    got, _ = moved.apply(arrays, images)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.abs(want).max() > 0.1


def test_without_tables_another_size_changes_no_array():
    model, variables = filled(Spec(RESNET, image_size=32))
    moved, arrays = runs.resized(model, variables, 64)
    assert moved.spec.image_size == 64
    jax.tree.map(np.testing.assert_array_equal, arrays, variables)


def test_what_is_made_for_one_size_names_it():
    model, variables = filled(Spec(MIXER, image_size=16))
    with pytest.raises(ValueError, match=r"^--image_size=32: encoder/[^\n]* 16 pixels$"):
        runs.resized(model, variables, 32)
