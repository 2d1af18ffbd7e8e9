"""vitjax convert: other projects' weights become runs, runs become other projects' weights."""

import json

import jax
import numpy as np
import pytest

from vitjax import checkpoint, interop
from vitjax.interop import files
from vitjax.interop.layout import Spec
from vitjax.interop.model import build
from vitjax.train import loop, reopen
from vitjax.verbs import convert, evaluate, features

RESNET = {"name": "resnet", "variant": "18", "width": 0.0625}
VIT = {"name": "vit", "variant": "Ti/2", "width": 16, "depth": 2, "mlp": 24, "heads": 2}


def filled(shapes, seed=0):
    rng = np.random.RandomState(seed)
    return jax.tree.map(
        lambda leaf: np.abs(0.2 + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes
    )


def made(folder, layout, encoder, classes, size=28, **changes):
    """A file of another project, with random weights."""
    spec = Spec(encoder, classes=classes, image_size=size)
    variables = filled(build(spec).shapes())
    tensors, beside = interop.write(spec, variables, layout)
    files.write(folder, tensors | changes, beside, archive=layout == "big_vision")
    return tensors


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(their folder, their tensors, the run that it became)."""
    theirs, run = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours") / "run"
    tensors = made(theirs, "huggingface", RESNET, classes=10)
    convert.run([str(theirs), "--out", str(run)])
    return theirs, tensors, run


def test_in_and_out_is_bit_identical(converted, tmp_path, capsys):
    theirs, tensors, run = converted
    convert.run([str(run), "--to=huggingface", "--out", str(tmp_path / "out")])
    again = files.read(tmp_path / "out")
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
    assert files.settings_beside(tmp_path / "out") == files.settings_beside(theirs)
    count = sum(
        tensor.size
        for name, tensor in tensors.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert f"vitjax resnet 18x0.0625, {count:,} parameters, " in printed[0]
    assert "28 px, head of 10 classes, images less (0.485, 0.456, 0.406) over" in printed[0]
    assert printed[0].endswith(f" -> {tmp_path / 'out'}")


def test_the_run_is_evaluated_looked_at_and_started_from(digits, recipe, tmp_path, capsys):
    made(tmp_path, "big_vision", VIT, classes=10, size=8)
    run = tmp_path / "run"
    convert.run([str(tmp_path / "model.npz"), "--out", str(run)])
    data = f"--data=digits:data_dir={digits},fraction=0.05,minival=0.05"
    small = "--set=batch_size=16"
    out = tmp_path / "out.json"
    evaluate.run(["--checkpoint", str(run), data, small, f"--out={out}"])
    assert "eval/validation/knn/top1_k10" in json.loads(out.read_text())["results"]
    with pytest.raises(ValueError, match=r"^config key data\.name is missing"):
        evaluate.run(["--checkpoint", str(run)])
    page = tmp_path / "page"
    features.run(["--checkpoint", str(run), data, small, "--pictures=2", f"--out={page}"])
    assert (page / "index.html").exists()

    model, variables = interop.load(run)
    started = {"encoder": dict(model.spec.encoder), "init_from": str(run), "evaluators": {}}
    opened = reopen.open_run(recipe | started)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(opened.state.params),
        {"encoder": variables["encoder"], "head": variables["head"]},
    )


def test_weights_without_a_head_are_evaluated_but_not_trained(tmp_path, digits, recipe, capsys):
    made(tmp_path, "big_vision", VIT, classes=0, size=8)
    run = tmp_path / "run"
    convert.run([str(tmp_path), "--out", str(run), "--image_size=12"])
    assert "12 px (made for 8 px), no head" in capsys.readouterr().err
    data = f"--data=digits:data_dir={digits},fraction=0.05,minival=0.05"
    evaluate.run(["--checkpoint", str(run), data, "--set=batch_size=16", "--evaluators=knn"])
    settings = reopen.settings_of(run)
    assert settings["views"]["size"] == 12 and settings["objective"] == {"name": "frozen"}
    with pytest.raises(ValueError, match=r"^objective\.name='frozen' trains nothing: "):
        loop.run(settings | {"data": recipe["data"], "batch_size": 16}, tmp_path / "trained")


@pytest.fixture(scope="module")
def averaged(settings, tmp_path_factory):
    """(a run that kept an average of its weights, random like the weights; the average)."""
    run = tmp_path_factory.mktemp("run")
    objective = settings["objective"] | {"ema_decay": 0.5}
    config = settings | {"objective": objective, "encoder": VIT}
    (run / "config.json").write_text(json.dumps({"config": config}))
    shapes = build(Spec(VIT, classes=10, image_size=8)).shapes()
    latest, average = filled(shapes, 1), filled(shapes, 2)
    kept = {"stats": {}, "ema_stats": {}, "ema": {k: average[k] for k in ("encoder", "head")}}
    params = {k: latest[k] for k in ("encoder", "head")}
    checkpoints = checkpoint.Checkpoints(run / "checkpoints")
    state = {"step": np.int32(3), "params": params, "extra": kept}
    checkpoints.save(3, state, {}, {})
    checkpoints.close()
    return run, average


@pytest.mark.parametrize("to", ["big_vision", "stablehlo"])
def test_a_run_leaves_with_the_average_of_its_weights_and_without_its_data(
    averaged, tmp_path, monkeypatch, to
):
    def gone(**settings):
        raise AssertionError("the data were opened")

    monkeypatch.setattr("vitjax.data.splits.open_splits", gone)
    run, average = averaged
    out = tmp_path / "out"
    convert.run([str(run), f"--to={to}", "--out", str(out)])
    images = np.random.RandomState(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    model, _ = interop.load(run)
    want, _ = model.apply(average, images)
    if to == "stablehlo":
        program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
        got = program.call(images)
    else:
        again, weights = interop.load(out)
        got, _ = again.apply(weights, images)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_what_is_left_behind_is_named(tmp_path, monkeypatch, capsys):
    made(tmp_path, "huggingface", RESNET, classes=10, **{"pooler.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"^the tensors do not fit: 1 unexpected: pooler\.weight$"):
        convert.run([str(tmp_path), "--out", str(tmp_path / "run")])
    table = interop.LAYOUTS["huggingface"]["resnet"]._replace(ignored=r"^pooler\.")
    monkeypatch.setitem(interop.LAYOUTS["huggingface"], "resnet", table)
    convert.run([str(tmp_path), "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().err
    assert printed.startswith("huggingface resnet 18x0.0625, ")
    assert "left behind pooler.weight -> " in printed


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("RUN", "--out=NEW"), "is a run of ours already: say --to"),
        (("RUN", "--out=RUN", "--to=timm"), "is not empty: give a new folder"),
        (("RUN", "--out=NEW", "--to=timm"), "timm"),  # it has no such width
        (("RUN", "--out=NEW", "--to=dinov2"), "--to dinov2 has no names for encoder 'resnet'"),
        (("nowhere.npz", "--out=NEW"), "there is no file or folder nowhere.npz"),
        (("THEIRS", "--out=NEW", "--layout=timn"), "did you mean 'timm'"),
        (("THEIRS", "--out=NEW", "--layout=dinov2"), "of no encoder that layout dinov2 has"),
        (("THEIRS", "--out=NEW", "--set=encoder.depth=3"), "depth"),
        (("THEIRS", "--out=NEW", "--set=depth=3"), "expected encoder.KEY=VALUE"),
        (("THEIRS", "--out=NEW", "--image_size=0"), "--image_size=0"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(converted, tmp_path, argv, named):
    theirs, _, run = converted
    places = {"RUN": run, "THEIRS": theirs, "NEW": tmp_path / "new"}
    for word, place in places.items():
        argv = [part.replace(word, str(place)) for part in argv]
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        convert.run(argv)
    assert named in str(error.value)
    assert sorted(run.rglob("*")) == before and not list(tmp_path.iterdir())
