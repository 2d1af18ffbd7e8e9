"""What other machines are asked to run: the unfinished cells, each as a task of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.study.test_sweep import fake_result
from vitjax.study import launchers, results, sweep

TEMPLATE = Path(__file__).parents[2] / "launch" / "gke_jobset.yaml"


def test_places_are_written_as_slurm_does():
    assert launchers.spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert sweep.places_of("0-2,5,7-8") == [0, 1, 2, 5, 7, 8]
    with pytest.raises(ValueError, match="--cells='a'"):
        sweep.places_of("a")


@pytest.fixture
def begun(plan, tmp_path):
    """A study whose second cell is finished."""
    done = plan.grid.cells[1]
    results.write(results.folder_of(tmp_path, plan, done), fake_result(done))
    return tmp_path


ARGUMENTS = ("--config", "a b.py", "--workdir", "x")


def test_the_array_has_a_task_for_each_unfinished_cell(plan, begun):
    file = launchers.write_array(begun, plan, ARGUMENTS, jobs=3)
    text = file.read_text()
    assert "#SBATCH --array=0,2-3%3\n" in text
    assert "sweep --config 'a b.py' --workdir x --cells \"$SLURM_ARRAY_TASK_ID\"" in text
    assert results.read_plan(begun) == plan
    subprocess.run(["bash", "-n", str(file)], check=True)


def test_each_index_of_the_jobset_is_an_unfinished_cell(plan, begun):
    file = launchers.write_jobset(begun, plan, ARGUMENTS, 2, TEMPLATE)
    (group,) = json.loads(file.read_text())["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 3, 2)
    (container,) = job["template"]["spec"]["containers"]
    assert container["image"].endswith("vitjax:tpu")  # the template's
    # What a pod runs, with a python that tells its arguments.
    shell = [*container["command"], *container["args"]]
    for index, place in enumerate((0, 2, 3)):
        told = 'function python { printf \'%s\\n\' "$@"; }; function exec { "$@"; }; '
        done = subprocess.run(
            [*shell[:2], told + shell[2]],
            env={"JOB_COMPLETION_INDEX": str(index), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        wanted = ["-m", "vitjax", "sweep", *ARGUMENTS, "--cells", str(place)]
        assert done.stdout.splitlines() == wanted


def test_a_finished_study_and_a_template_that_is_none_are_one_line(plan, begun, tmp_path):
    for name, text in {"none.yaml": None, "list.yaml": "- 1", "job.yaml": "kind: Job"}.items():
        file = tmp_path / name
        if text is not None:
            file.write_text(text)
        with pytest.raises(ValueError, match=f"^--template='.*{name}': expected a JobSet of one"):
            launchers.write_jobset(begun, plan, ARGUMENTS, 1, file)
    for cell in plan.grid.cells:
        results.write(results.folder_of(begun, plan, cell), fake_result(cell))
    with pytest.raises(ValueError, match=r"^every cell of .* is finished: vitjax report"):
        launchers.write_array(begun, plan, ARGUMENTS, 1)
