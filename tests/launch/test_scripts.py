"""What launches a run somewhere else says what that place understands."""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import stat
import subprocess
import sys
import sysconfig

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from kubeflow_trainer_api import models
from started import ROOT

from vitjax import main
from vitjax.study import launchers

LAUNCH = ROOT / "launch"
SHELL = [
    *sorted(LAUNCH.glob("*.sh")),
    LAUNCH / "slurm.sbatch",
    *sorted((ROOT / "tests").rglob("*.sh")),
    ROOT / ".ci" / "run",
]


@pytest.mark.parametrize("script", SHELL, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([str(shellcheck), str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert script.name == "slurm.sbatch" or script.stat().st_mode & stat.S_IXUSR


def documents(name):
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


@pytest.fixture
def jobset():
    return documents("gke_jobset.yaml")[0]


def unknown(given, understood, path=""):
    """Paths in a document that its schema left out or read as something else."""
    if isinstance(given, dict) and isinstance(understood, dict):
        found = [
            p for key in given for p in unknown(given[key], understood.get(key), f"{path}.{key}")
        ]
        return found
    if isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        pairs = enumerate(zip(given, understood, strict=True))
        return [p for i, (a, b) in pairs for p in unknown(a, b, f"{path}[{i}]")]
    return [] if given == understood else [path]


def test_the_jobset_is_one_by_the_schema_that_jobset_publishes(jobset):
    # These classes are generated from it, pods and all; they drop what they do not know.
    assert unknown(jobset, models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict()) == []
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 64
    understood = models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict()
    assert unknown(jobset, understood) == [".spec.replicatedJobs[0].template.spec.paralelism"]


def test_the_jobset_of_a_study_is_one_too(jobset):
    made = launchers.jobset(jobset, [0, 2, 3], ["--config", "configs/study_digits.py"], jobs=2)
    assert unknown(made, models.JobsetV1alpha2JobSet.from_dict(made).to_dict()) == []


# Fields of kueue.x-k8s.io/v1beta2 that the queue uses, read in apis/kueue/v1beta2 of
# kubernetes-sigs/kueue: clusterqueue_types.go at 013c8f2, resourceflavor_types.go at 2fff9df,
# localqueue_types.go at 02bc146. There is no package of its schema.
QUEUE = {
    "ResourceFlavor": {"nodeLabels": {str: str}},
    "ClusterQueue": {
        "namespaceSelector": {},
        "preemption": {
            "withinClusterQueue": {"Never", "LowerPriority", "LowerOrNewerEqualPriority"}
        },
        "resourceGroups": [
            {
                "coveredResources": [str],
                "flavors": [{"name": str, "resources": [{"name": str, "nominalQuota": int}]}],
            }
        ],
    },
    "LocalQueue": {"clusterQueue": str},
}


def fits(value, shape):
    if isinstance(shape, set):
        return value in shape
    if isinstance(shape, list):
        return isinstance(value, list) and value and all(fits(each, shape[0]) for each in value)
    if shape == {str: str}:
        return all(isinstance(word, str) for pair in value.items() for word in pair)
    if isinstance(shape, dict):
        return value.keys() <= shape.keys() and all(fits(value[k], shape[k]) for k in value)
    return isinstance(value, shape)


def test_the_queue_has_the_fields_of_kueue():
    for document in documents("gke_queue.yaml"):
        assert document["apiVersion"] == "kueue.x-k8s.io/v1beta2"
        assert fits(document["spec"], QUEUE[document["kind"]]), document["kind"]


def test_the_jobset_asks_for_the_slice_that_the_queue_has(jobset):
    flavor, cluster, local = documents("gke_queue.yaml")
    queue = jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert queue == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    job = jobset["spec"]["replicatedJobs"][0]
    pods = job["template"]["spec"]
    pod = pods["template"]["spec"]
    assert pod["nodeSelector"] == flavor["spec"]["nodeLabels"]
    (rows, columns), chips = (
        map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")),
        pod["containers"][0]["resources"]["limits"]["google.com/tpu"],
    )
    assert pods["parallelism"] == pods["completions"] == rows * columns // chips
    (quota,) = cluster["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    assert quota["nominalQuota"] == rows * columns * job["replicas"]


def test_a_jobset_told_to_leave_comes_back(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes == {"operator": "In", "values": [main.PREEMPTED]}
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    # Kubernetes takes a pod failure policy with this restart policy only.
    assert job["template"]["spec"]["restartPolicy"] == "Never" and job["backoffLimit"] == 0


def test_the_jobset_mounts_what_its_arguments_name(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(arg.split("=", 1) for arg in container["args"])
    assert flags["--coordinator"] == "auto" and (ROOT / flags["--config"]).exists()
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    places = [flags["--workdir"], flags["--config.data.data_dir"], container["env"][0]["value"]]
    assert all("/" + place.split("/")[1] in mounted for place in places)
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def words(instruction):
    return shlex.split(instruction["value"])


def test_the_image_is_made_of_what_is_here():
    parsed = DockerfileParser(str(LAUNCH / "Dockerfile"), cache_content=True).structure
    instructions = [each for each in parsed if each["instruction"] != "COMMENT"]
    stages = [w for each in instructions if each["instruction"] == "FROM" for w in [words(each)]]
    named = {stage[2] for stage in stages if len(stage) == 3}
    assert {"cpu", "tpu", "cuda"} <= named and stages[-1] == ["${ACCELERATOR}"]
    assert all(stage[0] in named or stage[0].startswith("python:3.") for stage in stages[:-1])
    for each in instructions:
        if each["instruction"] == "COPY":
            assert all((ROOT / source).exists() for source in words(each)[:-1]), each["content"]
    installs = " ".join(each["value"] for each in instructions if each["instruction"] == "RUN")
    assert set(re.findall(r"--requirement (\S+)", installs)) == {"requirements.txt"}
    extras = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    assert set(re.findall(r"jax\[(\w+)\]", installs)) == {"tpu", "cuda13"} <= set(extras)
    (entry,) = [each for each in instructions if each["instruction"] == "ENTRYPOINT"]
    assert entry["value"] == '["python", "-m", "vitjax.main"]'  # a list: no shell eats SIGTERM


# A gcloud that writes down what it was asked, in the slice's life of STATES and the run's of RUNS.
GCLOUD = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["FAKE"])
with (folder / "asked").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
def following(name):
    first, *rest = (folder / name).read_text().split()
    (folder / name).write_text(" ".join(rest or [first]))
    return first
if "describe" in sys.argv:
    state = following("states")
    sys.exit(1) if state == "ABSENT" else print(state)
elif "docker run" in sys.argv[-1]:
    sys.exit(int(following("runs")))
"""


@pytest.fixture
def tpu_vm(tmp_path):
    """Runs launch/tpu_vm.sh; returns its exit status, what it said and what gcloud was asked."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(GCLOUD.format(python=sys.executable))
    gcloud.chmod(0o755)

    def launch(*arguments, states="ACTIVE", runs="0", **environment):
        (tmp_path / "states").write_text(states)
        (tmp_path / "runs").write_text(runs)
        where = {
            "ZONE": "us-west4-a",
            "IMAGE": "r-docker.pkg.dev/p/vitjax:tpu",
            "SHARE": "nfs:/runs",
        }
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        where |= {"PATH": path, "FAKE": str(tmp_path), "POLL_SECONDS": "0"} | environment
        script = [str(LAUNCH / "tpu_vm.sh"), *arguments]
        done = subprocess.run(script, env=where, capture_output=True, text=True, timeout=60)
        asked = (tmp_path / "asked").read_text().splitlines() if done.returncode != 2 else []
        return done.returncode, done.stderr, [json.loads(line) for line in asked]

    return launch


def verbs(asked):
    """create, ssh, ...: what it was asked to do, what it was only asked apart."""
    return [words[3] for words in asked if words[3] != "describe"]


FLAGS = ("--config", "configs/vit_b16.py", "--workdir", "/runs/a b")


def test_a_tpu_slice_is_queued_for_set_up_and_given_back(tpu_vm):
    status, _, asked = tpu_vm("v-1", *FLAGS, states="ABSENT PROVISIONING ACTIVE")
    assert status == 0 and verbs(asked) == ["create", "ssh", "ssh", "delete"]
    create = next(words for words in asked if words[3] == "create")
    assert create[:5] == ["compute", "tpus", "queued-resources", "create", "v-1"]
    assert {"--accelerator-type=v5litepod-256", "--spot", "--zone=us-west4-a"} <= set(create)
    train = [words for words in asked if words[3] == "ssh"][-1]
    assert train[:5] == ["compute", "tpus", "tpu-vm", "ssh", "v-1"] and "--worker=all" in train
    remote = shlex.split(train[-1].removeprefix("--command="))  # as the worker's shell reads it
    image = remote.index("r-docker.pkg.dev/p/vitjax:tpu")
    assert remote[image + 1 :] == ["--coordinator", "auto", *FLAGS]


def test_a_preempted_slice_is_queued_for_again(tpu_vm):
    states = "ACTIVE SUSPENDED SUSPENDED ABSENT ACTIVE"
    status, _, asked = tpu_vm("v-1", *FLAGS, states=states, runs="255 0", CAPACITY="")
    assert status == 0
    assert verbs(asked) == ["ssh", "ssh", "delete", "create", "ssh", "ssh", "delete"]
    assert not any("--spot" in words for words in asked)


def test_a_run_told_to_leave_goes_on_where_it_is(tpu_vm):
    status, _, asked = tpu_vm("v-1", *FLAGS, runs="75 0")
    assert status == 0 and verbs(asked) == ["ssh"] * 4 + ["delete"]


def test_a_run_that_fails_is_not_repeated(tpu_vm):
    status, said, asked = tpu_vm("v-1", *FLAGS, runs="134")
    assert status == 134 and verbs(asked) == ["ssh", "ssh"]
    assert said.strip().splitlines()[-1].startswith("error: the run failed with status 134")


def test_what_is_missing_is_said_before_gcloud_is_asked(tpu_vm, tmp_path):
    status, said, _ = tpu_vm(*FLAGS)
    assert status == 2 and "usage: launch/tpu_vm.sh NAME" in said
    assert not (tmp_path / "asked").exists()


# A srun that says which GPUs its task takes, and leaves at once, or when there is a file "leave".
SRUN = """#!/bin/sh
echo "gpus ${JAX_LOCAL_DEVICE_IDS:-of the task} $*"
test "$STATUS" = wait || exit "$STATUS"
echo started
while ! test -e "$(dirname "$0")/leave"; do sleep 0.1; done
exit 75
"""


@pytest.fixture
def batch(tmp_path):
    """Starts launch/slurm.sbatch as slurmd does; its output has what srun and scontrol got."""
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/sh\necho "scontrol $*"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def launch(status, **environment):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        where = {"PATH": path, "STATUS": status, "SLURM_JOB_ID": "7"} | environment
        script = ["bash", str(LAUNCH / "slurm.sbatch"), "--workdir", "a b"]
        return subprocess.Popen(script, env=where, stdout=subprocess.PIPE, text=True)

    return launch


@pytest.mark.parametrize(
    ("tasks", "gpus", "taken"), [("1", "4", "0,1,2,3"), ("4", "4", "of the task"), ("1", "0", "of")]
)
def test_one_task_of_a_node_takes_all_of_its_gpus(batch, tasks, gpus, taken):
    job = batch("0", SLURM_NTASKS_PER_NODE=tasks, SLURM_GPUS_ON_NODE=gpus)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0 and output.startswith(f"gpus {taken}")
    assert "-m vitjax.main --coordinator auto --workdir a b" in output


@pytest.mark.parametrize(("status", "requeued"), [("75", True), ("2", False), ("0", False)])
def test_only_a_job_that_was_told_to_leave_is_requeued(batch, status, requeued):
    job = batch(status)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == int(status) and ("scontrol requeue 7" in output) == requeued


def test_the_script_outlives_a_signal_until_its_tasks_have_left(batch, tmp_path):
    job = batch("wait")
    while job.stdout.readline() != "started\n":
        pass
    job.terminate()
    (tmp_path / "leave").touch()
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 75 and "scontrol requeue 7" in output
