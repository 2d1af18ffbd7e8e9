"""vitjax sweep and vitjax report: what they take, and what they refuse in one line."""

import subprocess
import sys

import pytest

from tests.study.planted import curve
from tests.study.test_study_report import plant
from vitjax.study import results
from vitjax.verbs import report, sweep


@pytest.fixture
def study(tmp_path, recipe):
    """A config with a grid of two cells."""
    del recipe["steps"]
    grid = {
        "encoders": {"vit": recipe["encoder"]},
        "fractions": [0.05, 0.1],
        "seeds": [0],
        "lrs": [1e-3],
        "budgets": {"steps": {"steps": 4}},
    }
    file = tmp_path / "study.py"
    file.write_text(
        "import ml_collections\n"
        f"def get_config(arg=''):\n    return ml_collections.ConfigDict({recipe!r})\n"
        f"def sweep(arg=''):\n    return {grid!r}\n"
    )
    return ["--config", str(file), "--workdir", str(tmp_path / "runs")]


def test_slurm_gets_a_script_and_nothing_runs(study, tmp_path, capsys):
    sweep.run([*study, "--launcher", "slurm", "--set", "batch_size=8"])
    file = tmp_path / "runs" / "array.sh"
    assert f"sbatch {file}" in capsys.readouterr().err
    assert "--set batch_size=8 --cells" in file.read_text()
    assert results.read_plan(tmp_path / "runs").config["batch_size"] == 8
    assert not (tmp_path / "runs" / "cells").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "auto"], "--coordinator: only with --cells"),
        (["--cells", "1-x"], "--cells='1-x': expected places in the grid"),
        (["--cells", "2"], "there is no cell 2; the grid has 0 to 1"),
        (["--launcher", "jobset"], "--launcher=jobset needs a --template"),
        (["--template", "x.yaml"], "--launcher=jobset needs a --template"),
        (["--jobs", "0"], "--jobs=0: expected at least 1"),
        (["--set", "batch_size"], "expected KEY=VALUE"),
    ],
)
def test_what_cannot_be_is_refused(study, flags, message):
    with pytest.raises(ValueError, match=message):
        sweep.run([*study, *flags])


def test_a_sweep_leaves_the_accelerators_to_its_workers():
    """This process would hold a TPU, or most of a GPU's memory."""
    code = "import sys, vitjax.verbs.sweep; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_report_is_written_and_its_place_is_told(tmp_path, capsys):
    plant(tmp_path, {"cnn": curve(0.2, 0.5)}, seeds=1, sizes=[100, 200])
    report.run([str(tmp_path), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    with pytest.raises(ValueError, match="is no folder of a study"):
        report.run([str(tmp_path / "nothing")])
