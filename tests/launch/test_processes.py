"""Several processes are one run: in what they compute, read and save, and in how they end."""

import json
import pathlib
import shutil
import signal
import stat
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from recording import install
from started import (
    LOCAL,
    by_hand,
    config_file,
    end_all,
    environment,
    last_line,
    saved_arrays,
    start,
)

from vitjax import checkpoint
from vitjax.train import loop, metrics

pytestmark = pytest.mark.slow
STEPS, BATCH = 10, 16


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    end_all()


@pytest.fixture(scope="module")
def wide(settings):
    """More steps than an epoch has; no process of several holds a whole parameter."""
    changes = {
        "steps": STEPS,
        "batch_size": BATCH,
        "sharding": {"min_size": 0},
        "checkpoint": {"keep": 2, "every_steps": 5},
    }
    return settings | changes


class Run:
    """A working directory and what was recorded of the run in it."""

    def __init__(self, folder: pathlib.Path):
        self.workdir, self.record = folder / "run", folder / "record"
        self.record.mkdir(parents=True)

    def launch(self, recipe, processes):
        """Through launch/local.sh, on eight devices altogether."""
        python = self.record / "python"
        recorder = pathlib.Path(__file__).with_name("recording.py")
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {recorder} "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        flags = ["--config", config_file(self.record, recipe), "--workdir", str(self.workdir)]
        where = environment(8 // processes) | {"PYTHON": str(python), "RECORD": str(self.record)}
        process = start([LOCAL, str(processes), *flags], where)
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-3000:]

    @property
    def rows(self):
        return metrics.read(self.workdir / "metrics.jsonl")

    @property
    def losses(self):
        return metrics.curve(self.rows, "train/loss")

    def batches(self, processes):
        """The global batches: the rows of process 0, then those of 1, ..."""
        read = [(self.record / f"seen.{i}").read_text().splitlines() for i in range(processes)]
        return [" ".join(rows).split() for rows in zip(*read, strict=True)]


@pytest.fixture(scope="module")
def one(wide, tmp_path_factory):
    """The run in one process, this one, with eight devices."""
    run = Run(tmp_path_factory.mktemp("one"))
    with pytest.MonkeyPatch.context() as patch:
        install(run.record, patch.setattr)
        loop.run(wide, run.workdir)
    return run


@pytest.fixture(scope="module")
def two(wide, tmp_path_factory):
    """The same in two processes with four devices each."""
    run = Run(tmp_path_factory.mktemp("two"))
    run.launch(wide, 2)
    return run


def test_two_processes_have_the_losses_of_one(one, two):
    assert one.losses[0] == two.losses[0] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(two.losses[1], one.losses[1], rtol=1e-5)


def test_two_processes_have_the_numbers_of_one(one, two):
    def numbers(run):
        return {
            name: value
            for row in run.rows
            for name, value in row.items()
            if name.startswith("eval/") and not name.endswith("/seconds")
        }

    want, got = numbers(one), numbers(two)
    assert "eval/test/knn/top1_k5" in want and want.keys() == got.keys()
    for name, number in want.items():  # or the hash of a protocol
        number = pytest.approx(number, rel=1e-5) if isinstance(number, float) else number
        assert got[name] == number, name


def test_two_processes_read_each_image_once_in_an_epoch(one, two):
    whole, parts = one.batches(1), two.batches(2)
    assert whole == parts and {len(rows) for rows in parts} == {BATCH}
    epoch = [row for rows in parts for row in rows if row.startswith("0:")]
    assert sorted(epoch) == sorted(f"0:{index}" for index in range(len(epoch)))
    assert len(epoch) < STEPS * BATCH  # the next epoch has begun: this one is whole


def test_two_processes_leave_the_state_of_one(one, two):
    want, got = saved_arrays(one.workdir, STEPS), saved_arrays(two.workdir, STEPS)
    assert want.keys() == got.keys()
    # A bias of keys adds the same to every score of a query: its gradient is rounding and nothing
    # else, which Adam divides by its own size.
    for name in (name for name in want if not name.endswith("key/bias")):
        np.testing.assert_allclose(got[name], want[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_two_processes_do_not_do_a_finished_run_again(wide, two):
    rows = two.rows
    two.launch(wide, 2)
    assert two.rows == rows


@pytest.mark.parametrize("processes", [1, 4])
def test_a_checkpoint_of_two_processes_goes_on_in_another_number(wide, two, tmp_path, processes):
    run = Run(tmp_path)
    shutil.copytree(two.workdir, run.workdir)
    shutil.rmtree(run.workdir / "checkpoints" / str(STEPS))
    if processes == 1:
        with pytest.MonkeyPatch.context() as patch:
            install(run.record, patch.setattr)
            loop.run(wide, run.workdir)
    else:
        run.launch(wide, processes)
    assert_restored(run, saved_arrays(two.workdir, 5), processes)
    assert run.losses[0] == two.losses[0]
    np.testing.assert_allclose(run.losses[1], two.losses[1], rtol=1e-5)
    seen = run.batches(processes)
    assert seen == two.batches(2)[5:]


def assert_restored(run, saved, processes):
    """Every part of every array that any process held is bit for bit what was saved."""
    found = set()
    for process in range(processes):
        for part, array in np.load(run.record / f"restored.{process}.npz").items():
            name, _, bounds = part.partition("|")
            index = tuple(slice(*ends) for ends in json.loads(bounds))
            np.testing.assert_array_equal(array, saved[name][index], err_msg=name)
            found.add(name)
    assert found == set(saved)


@pytest.fixture
def broken(settings, tmp_path):
    """Settings of a run whose process 1 meets an image that it cannot read, in the fourth step."""
    for number in range(80):
        folder = tmp_path / "images" / "train" / f"class{number // 8}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    names = sorted((tmp_path / "images").rglob("*.png"))
    names[3 * BATCH + BATCH // 2 + 3].write_bytes(b"no image")
    data = {"name": "folder", "path": str(tmp_path / "images"), "test": None, "minival": 0}
    input_ = settings["input"] | {"shuffle": False, "bad_share": 0}
    changes = {"data": data, "input": input_, "batch_size": BATCH, "evaluators": {}, "evaluate": {}}
    return settings | changes | {"steps": 200}


@pytest.mark.parametrize("launcher", ["local.sh", "by hand"])
def test_a_process_that_fails_ends_the_others_with_its_error(broken, tmp_path, launcher):
    flags = ["--config", config_file(tmp_path, broken), "--workdir", str(tmp_path / "run")]
    where = environment(1)
    started = [start([LOCAL, "2", *flags], where)] if launcher == "local.sh" else []
    started = started or by_hand(2, flags, where)
    outputs = [process.communicate(timeout=280)[1] for process in started]
    assert [process.returncode for process in started] == [2] * len(started), outputs
    for output in outputs:
        line = last_line(output)
        assert line.startswith("error: ") and "1 of 40 examples of images are unreadable" in line
        assert "Traceback" not in output
    assert "error: process 1 failed: 1 of 40 examples" in outputs[0]  # what the other one says
    last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    assert last in (2, 3)  # none beyond the batch that could not be read


@pytest.fixture
def endless(settings, tmp_path):
    """Flags of a run that goes on until it is ended."""
    recipe = settings | {"evaluators": {}, "evaluate": {}, "steps": 100_000}
    return ["--config", config_file(tmp_path, recipe), "--workdir", str(tmp_path / "run")]


def wait_for_steps(workdir, processes):
    """Until a few steps are done."""
    file = workdir / "metrics.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) < 5:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_a_killed_process_is_named_by_the_launcher(endless, tmp_path):
    launcher = start([LOCAL, "2", *endless], environment(1))
    wait_for_steps(tmp_path / "run", [launcher])
    children = psutil.Process(launcher.pid).children()
    victim = next(child for child in children if child.cmdline()[8] == "1")
    victim.kill()
    began = time.monotonic()
    _, errors = launcher.communicate(timeout=280)
    assert launcher.returncode == 128 + signal.SIGKILL and time.monotonic() - began < 20
    assert last_line(errors) == "error: process 1 was killed by signal 9 (KILL)"
    assert not any(child.is_running() for child in children)


def test_without_a_launcher_the_others_do_not_outlive_a_killed_process(endless, tmp_path):
    processes = by_hand(2, endless, environment(1))
    wait_for_steps(tmp_path / "run", processes)
    processes[0].kill()
    began = time.monotonic()
    _, errors = processes[1].communicate(timeout=280)
    assert processes[1].returncode not in (0, 75) and time.monotonic() - began < 130
    assert "another process of this run does not answer" in errors or "another task died" in errors


def test_told_to_leave_all_leave_with_a_checkpoint(endless, tmp_path):
    launcher = start([LOCAL, "2", *endless], environment(1))
    wait_for_steps(tmp_path / "run", [launcher])
    launcher.terminate()
    _, errors = launcher.communicate(timeout=280)
    assert launcher.returncode == 75 and "is saved in" in errors
    assert checkpoint.Checkpoints(tmp_path / "run" / "checkpoints").latest() > 0
