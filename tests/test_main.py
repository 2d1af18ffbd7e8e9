"""The command line as a user meets it: exit status, one line for an error, nothing lost."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vitjax.train import metrics

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, and the digits in a folder of their own."""
    return os.environ | {
        "TFDS_DATA_DIR": str(tmp_path_factory.mktemp("digits")),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT),
    }


def command(workdir, *flags, config="digits_vit.py:smoke"):
    path = str(ROOT / "configs" / config)
    main = [sys.executable, "-m", "vitjax.main"]
    return [*main, "--config", path, "--workdir", str(workdir), *flags]


def run(arguments, environment, **settings):
    return subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=250, **settings
    )


def error_line(done):
    """The one line of an error, after checking that there is one and no traceback."""
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.optimizer.wieght_decay=0.1",), "optimizer.wieght_decay is unknown"),
        (("--config.bach_size=8",), "did you mean 'batch_size'"),
        (("--config.data.name=folder", "--config.data.path=nowhere"), "data."),
        (("--config.views.mixupp=0.1",), "views.mixupp is unknown; did you mean 'mixup'"),
        (("--config.mesh.model=3",), "mesh.model=3"),
        (("--config.optimzer.lr=1",), "optimzer"),
        (("--config.encoder.heads=0",), "encoder.heads=0"),
        (("--config.views.area=0.5",), "wrong kind: TypeError"),
        (("--config.evaluators.linear.steps=0",), "evaluators.linear.steps=0"),
        (("--config.checkpoint.best=eval/test/knn/top1",), "begin with eval/validation/accuracy"),
        (("--config.epochs=1",), "steps and epochs are both set"),
        (("--coordinator=auto",), "jax finds neither Slurm's variables nor a TPU pod here"),
        (("--coordinator=host:1", "--process=0"), "needs --processes and --process below it"),
    ],
)
def test_a_bad_setting_is_one_line_and_leaves_nothing_behind(tmp_path, environment, flags, message):
    done = run(command(tmp_path / "run", *flags), environment)
    assert message in error_line(done)
    assert not (tmp_path / "run").exists()


def test_a_bad_argument_of_a_config_file_is_one_line(tmp_path, environment):
    done = run(command(tmp_path / "run", config="digits_vit.py:smok"), environment)
    assert "'smok' is unknown; did you mean 'smoke'" in error_line(done)


def test_verbs_are_listed_and_a_wrong_one_named(environment):
    vitjax = [sys.executable, "-m", "vitjax"]
    assert "prepare SRC" in run([*vitjax, "--help"], environment).stdout
    done = run([*vitjax, "trian"], environment)
    assert done.returncode == 1 and "did you mean 'train'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(f.name for f in (ROOT / "configs").glob("*.py")))
def test_every_config_runs_as_smoke(tmp_path, environment, config):
    done = run(command(tmp_path / "run", config=f"{config}:smoke"), environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    labelled = (
        "classes"
        in json.loads((tmp_path / "run" / "config.json").read_text())["config"]["objective"]
    )
    number = "eval/test/accuracy/top1" if labelled else "eval/test/knn/top1_k20"
    assert any(number in row for row in rows)


LONG = ("--config.steps=30", "--config.checkpoint.every_steps=5")


def losses(workdir):
    return metrics.curve(metrics.read(workdir / "metrics.jsonl"), "train/loss")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, environment, number):
    assert run(command(tmp_path / "whole", *LONG), environment).returncode == 0
    arguments = command(tmp_path / "killed", *LONG)
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
    file = tmp_path / "killed" / "metrics.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) < 12:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert ("is saved in" in errors) == (number == signal.SIGTERM)
    assert len(losses(tmp_path / "killed")[0]) < 30
    assert run(arguments, environment).returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("kib", "lost"), [(4, "metrics.jsonl"), (16, "the checkpoint of step 6")])
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(tmp_path, environment, kib, lost):
    """Files may grow to so many KiB only, as on a disk that fills up."""
    workdir = tmp_path / "run"
    assert run(command(workdir, "--config.steps=4"), environment).returncode == 0
    before = set((workdir / "checkpoints").iterdir())
    (workdir / "config.json").unlink()  # else the longer run is another config

    longer = command(workdir, "--config.steps=6")
    full = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "full"]
    done = run([*full, *longer], environment)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "error: " in line and lost in line]
    assert len(lines) == 1 and "could not be written" in lines[0]  # among what Orbax's threads say
    assert before <= set((workdir / "checkpoints").iterdir())
    done = run(longer, environment)
    assert done.returncode == 0 and "from step 4" in done.stderr
