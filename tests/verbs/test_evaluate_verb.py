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
