"""launch/slurm.sbatch on a Slurm cluster of one node, this machine: two tasks train as one run."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import numpy as np
import pytest
from started import ROOT, config_file, environment, free_port, saved_arrays

from vitjax.train import metrics

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
STEPS = 40


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a user of the cluster."""
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [
        name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path=path)
    ]
    if missing or os.getuid():
        pytest.skip(f"needs root, and Debian's slurmctld, slurmd, slurm-client, munge: {missing}")
    folder = tmp_path_factory.mktemp("slurm")
    script = str(pathlib.Path(__file__).with_name("one_machine_slurm.sh"))
    where = os.environ | {"PORT": str(free_port())}
    subprocess.run([script, "start", str(folder)], check=True, env=where)
    yield environment(2) | {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([script, "stop", str(folder)], check=True)


class Job:
    """launch/slurm.sbatch as it is submitted."""

    def __init__(self, folder, settings, slurm):
        self.workdir, self.log, self._slurm = folder / "run", folder / "log", slurm
        folder.mkdir()
        flags = ["--config", config_file(folder, settings), "--workdir", str(self.workdir)]
        given = ["--parsable", "--ntasks-per-node=2", f"--output={self.log}", f"--chdir={ROOT}"]
        self.number = self.ask("sbatch", *given, "launch/slurm.sbatch", *flags).strip()

    def ask(self, *command) -> str:
        return subprocess.run(
            command, env=self._slurm, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    def show(self) -> dict[str, str]:
        """What Slurm knows of the job."""
        words = self.ask("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self) -> dict[str, str]:
        while (job := self.show())["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
            time.sleep(0.5)
        return job

    def wait_for_steps(self, steps):
        file = self.workdir / "metrics.jsonl"
        while not file.exists() or len(file.read_text().splitlines()) < steps:
            assert self.show()["JobState"] in ("PENDING", "RUNNING"), self.log.read_text()[-3000:]
            time.sleep(0.1)

    @property
    def losses(self):
        return metrics.curve(metrics.read(self.workdir / "metrics.jsonl"), "train/loss")


@pytest.fixture(scope="module")
def recipe(settings):
    return settings | {"steps": STEPS, "evaluators": {}, "evaluate": {}}


@pytest.fixture(scope="module")
def whole(recipe, slurm, tmp_path_factory):
    """A job that nobody disturbed."""
    job = Job(tmp_path_factory.mktemp("jobs") / "whole", recipe, slurm)
    job.ended = job.wait()
    return job


def test_the_tasks_of_a_job_are_one_run(whole):
    assert whole.ended["JobState"] == "COMPLETED", whole.log.read_text()[-3000:]
    hardware = json.loads((whole.workdir / "config.json").read_text())["hardware"]
    assert hardware["processes"] == 2 and hardware["devices"] == 4
    assert whole.losses[0] == list(range(1, STEPS + 1))


def test_a_job_told_to_leave_is_requeued_and_ends_as_if_it_had_not_been(
    recipe, slurm, whole, tmp_path
):
    job = Job(tmp_path / "left", recipe, slurm)
    job.wait_for_steps(5)
    # To the tasks and not to the script, as Slurm does before the time limit (--signal=TERM@120).
    job.ask("scancel", "--signal=TERM", job.number)
    ended, log = job.wait(), job.log.read_text()
    assert ended["JobState"] == "COMPLETED" and ended["Restarts"] == "1", log[-3000:]
    assert f"of {STEPS} is saved in" in log
    assert job.losses == whole.losses
    want, got = saved_arrays(whole.workdir, STEPS), saved_arrays(job.workdir, STEPS)
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_a_job_that_cannot_go_on_fails_and_stays_away(recipe, slurm, tmp_path):
    broken = recipe | {"data": recipe["data"] | {"name": "nowhere"}}
    job = Job(tmp_path / "broken", broken, slurm)
    ended = job.wait()
    assert ended["JobState"] == "FAILED" and ended["ExitCode"] == "2:0", job.log.read_text()
    assert ended["Restarts"] == "0" and "error: " in job.log.read_text()
