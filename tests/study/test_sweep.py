"""A sweep: what is finished stays, what fails stops nothing, and a kill changes no number."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from vitjax.study import grid as grid_lib
from vitjax.study import results, sweep
from vitjax.study.board import Board


def board_of(plan, lines):
    return Board(plan, Console(file=lines, width=200, markup=False))


def fake_result(cell, seconds=1.0, top1=0.5):
    return {
        "cell": cell._asdict(),
        "numbers": {"accuracy/top1": top1},
        "seconds": seconds,
        "lr": 1e-3,
    }


def test_other_settings_are_not_finished(plan, tmp_path):
    done = plan.grid.cells[0]
    results.write(results.folder_of(tmp_path, plan, done), fake_result(done))
    assert sweep.unfinished(tmp_path, plan) == [1, 2, 3]
    other = plan._replace(grid=dataclasses.replace(plan.grid, lrs=[1e-2, 1e-1]))
    assert sweep.unfinished(tmp_path, other) == [0, 1, 2, 3]


def test_a_cell_in_this_process_is_run_and_not_repeated(plan, tmp_path, monkeypatch):
    from vitjax.study import worker

    ran = []

    def attempt(plan, cell, folder, progress):
        ran.append(cell)
        progress("rate 1 of 2")
        if cell.encoder == "vit":
            results.fail(folder, "it broke")
            return "it broke"
        results.write(folder, fake_result(cell))
        return ""

    monkeypatch.setattr(worker, "attempt", attempt)
    monkeypatch.setattr(worker, "setup", lambda workdir: None)
    lines = io.StringIO()
    failed = sweep.run_here(tmp_path, plan, [0, 1, 2], board_of(plan, lines))
    assert list(failed) == [plan.grid.cells[1].name] and len(ran) == 3
    assert "failed: it broke" in lines.getvalue() and "[3/3]" in lines.getvalue()
    study = results.read_study(tmp_path)
    assert len(study.results) == 2 and study.failed == failed and len(study.missing) == 1
    sweep.run_here(tmp_path, plan, [0, 1, 2], board_of(plan, lines))
    assert ran[3:] == [plan.grid.cells[1]]  # what failed is tried again
    with pytest.raises(ValueError, match="there is no cell 4; the grid has 0 to 3"):
        sweep.run_here(tmp_path, plan, [4], board_of(plan, lines))


def test_the_board_tells_time_left_and_what_there_is(plan):
    lines = io.StringIO()
    board = board_of(plan, lines)
    a, b, c, _ = plan.grid.cells
    board.begin(4, 1)
    board.finished(a, fake_result(a, seconds=10, top1=0.625))
    assert board.left() == "0:00:30 left"  # three more, of which nothing else is known
    board.finished(b, fake_result(b, seconds=30))
    assert board.left() == "0:00:40 left"  # one as the first, one as the second
    board.failed(c, "it broke")
    table = Console(file=io.StringIO(), width=120)
    table.print(board.table())
    shown = table.file.getvalue()
    assert "62.5 1/1" in shown and "1 failed" in shown and "0/1" in shown
    assert "[1/4] cnn, supervised, 5%, steps, seed 0: 62.5%" in lines.getvalue()


def test_two_sweeps_do_not_share_a_folder(plan, tmp_path):
    with sweep._locked(tmp_path), pytest.raises(ValueError, match="another sweep is running in"):
        sweep.run(tmp_path, plan)


CONFIG = """
import ml_collections
def get_config(arg=""):
    return ml_collections.ConfigDict({config!r})
def sweep(arg=""):
    return {grid!r}
"""


@pytest.fixture
def command(plan, tmp_path):
    """`vitjax sweep` of a small study in which one encoder cannot work."""
    wrong = {"name": "classic", "variant": "lenet5"}  # 32 pixels a side, and the digits have 8
    grid = {k: getattr(plan.grid, k) for k in plan.grid.__dataclass_fields__}
    grid["encoders"] = {"broken": wrong} | grid["encoders"]
    file = tmp_path / "study.py"
    file.write_text(CONFIG.format(config=plan.config, grid=grid))

    def start(workdir):
        return subprocess.Popen(
            [sys.executable, "-m", "vitjax", "sweep", "--config", file, "--workdir", workdir],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            stderr=subprocess.PIPE,
            text=True,
        )

    return start, grid_lib.load(str(file))


def table(workdir, plan):
    """What the numbers of a study are made of; neither times nor versions."""
    rows = {}
    for cell in plan.grid.cells:
        found = results.read(results.folder_of(workdir, plan, cell))
        if found is not None:
            keys = ("numbers", "lr", "images", "subset", "steps", "flops", "parameters")
            rows[cell.name] = {key: found[key] for key in keys}
    return rows


@pytest.mark.slow
@pytest.mark.timeout(900)  # three sweeps
def test_a_killed_sweep_goes_on_to_the_same_table(command, tmp_path):
    start, plan = command
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(whole)
    _, said = process.communicate(timeout=280)
    assert process.returncode == 1, said  # a failed cell has not stopped the rest, and is told
    assert "2 of 6 cells failed" in said and "lenet5" in said
    assert len(table(whole, plan)) == 4

    process = start(cut)
    until = time.monotonic() + 200
    while not table(cut, plan) and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = table(cut, plan)
    assert 0 < len(before) < 4
    stamps = {p: p.stat().st_mtime_ns for p in cut.glob("cells/*/result.json")}
    process = start(cut)
    _, again = process.communicate(timeout=280)
    assert table(cut, plan) == table(whole, plan)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())  # not run again
    finished = [cell.text for cell in plan.grid.cells if cell.name in before]
    assert not any(f"{text}: " in again for text in finished)  # nor told again
    assert all(f"{text}: " in said for text in finished)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_dies_costs_its_cell_alone(plan, tmp_path, monkeypatch):
    """As where memory runs out: the process is gone, and says nothing."""
    deadly = tmp_path / "sitecustomize.py"
    deadly.write_text(
        "import sys, os\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'vitjax.study.cell': os.kill(os.getpid(), 9)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    one = plan._replace(grid=dataclasses.replace(plan.grid, fractions=[0.05]))
    lines = io.StringIO()
    failed = sweep.run(tmp_path / "study", one, 1, board_of(one, lines))
    assert len(failed) == 2 and all("exit status -9" in error for error in failed.values())
