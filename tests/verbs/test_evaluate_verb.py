"""vitjax evaluate: the numbers of a run, from its checkpoint alone."""

import json

import pytest

from vitjax.train.metrics import read
from vitjax.verbs import evaluate


def numbers(file):
    results = json.loads(file.read_text())["results"]
    return {name: value for name, value in results.items() if not name.endswith("seconds")}


def test_a_checkpoint_alone_gives_the_numbers_of_its_run(trained, tmp_path):
    evaluate.run(["--checkpoint", str(trained), "--split=test", f"--out={tmp_path / 'test.json'}"])
    rows = read(trained / "metrics.jsonl")
    logged = {name: value for row in rows for name, value in row.items() if "eval/test/" in name}
    got = numbers(tmp_path / "test.json")
    assert got and got == {k: v for k, v in logged.items() if not k.endswith("seconds")}
    step = trained / "checkpoints" / "4"
    evaluate.run(["--checkpoint", str(step), "--split=test", f"--out={tmp_path / 'step.json'}"])
    assert numbers(tmp_path / "step.json") == got


def test_evaluators_and_data_may_be_others_than_those_of_the_run(trained, digits, tmp_path):
    out = tmp_path / "new" / "out.json"
    argv = ["--checkpoint", str(trained), "--evaluators=knn", "--set=evaluators.knn.k=(1,)"]
    data = f"--data=digits:data_dir={digits},split_by=random,fraction=0.05,minival=0.05"
    evaluate.run([*argv, data, f"--out={out}"])
    record = json.loads(out.read_text())
    assert set(numbers(out)) == {"eval/validation/knn/top1_k1", "eval/validation/knn/protocol"}
    assert record["config"]["data"]["fraction"] == 0.05
    assert record["split"] == "validation" and "jax" in record["versions"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--evaluators=knm"], "knn"),
        (["--evaluators="], "name some in --evaluators"),
        (["--set=encoder.width=32"], "is of another model"),
        (["--evaluators=knn", "--set=evaluators.kn.k=[5]"], "did you mean 'knn'"),
        (["--set=evaluators=5"], "config key evaluators=5"),
        (["--set=evaluators.knn.k=[5.5]"], "evaluators.knn.k=[5.5]: expected something like"),
        (["--evaluators=linear", "--set=evaluators.linear.steps=1e2"], "evaluators.linear.steps"),
        (["--set=evaluate.sample_examples=0"], "evaluate.sample_examples=0"),
        (["--set=data.test=None", "--split=test"], "--split=test"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(trained, tmp_path, more, named):
    out = tmp_path / "out.json"
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        evaluate.run(["--checkpoint", str(trained), f"--out={out}", *more])
    assert named in str(error.value) and not out.exists()
    with pytest.raises(ValueError, match="holds no checkpoint of step 3"):
        evaluate.run(["--checkpoint", str(trained / "checkpoints" / "3")])


def test_one_evaluator_that_fails_costs_the_others_nothing(trained, tmp_path):
    out = tmp_path / "out.json"
    argv = ["--checkpoint", str(trained), "--evaluators=fewshot,knn", f"--out={out}"]
    with pytest.raises(ValueError, match=r"^no number of fewshot: [^\n]*$"):
        evaluate.run([*argv, "--set=evaluators.fewshot.shots=(999,)"])
    assert {"eval/validation/knn/top1_k5"} <= set(numbers(out))
    assert "fewshot" in json.loads(out.read_text())["failures"]


def test_a_folder_is_no_file_for_the_numbers(trained, tmp_path):
    with pytest.raises(ValueError, match=r"^--out='[^\n]* is a folder: give a file$"):
        evaluate.run(["--checkpoint", str(trained), f"--out={tmp_path}"])


def test_another_image_size_resamples_the_positions_and_says_so(trained, tmp_path, capsys):
    out = tmp_path / "large.json"
    argv = ["--checkpoint", str(trained), "--evaluators=knn", "--set=evaluators.knn.k=(5,)"]
    evaluate.run([*argv, "--set=views.size=16", "--split=test", f"--out={out}"])
    assert "eval/test/knn/top1_k5" in numbers(out)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 resampled: extra/ema/encoder/position_embedding (4, 4, 16) to (8, 8, 16)" in said
