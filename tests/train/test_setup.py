"""What setup writes out: durations of an objective, and what follows from sizes."""

import dataclasses

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vitjax import models
from vitjax.config import ConfigError
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import compiler_options, setup
from vitjax.train import recipe as recipe_lib


@pytest.fixture
def self_supervised(recipe):
    del recipe["evaluators"]
    recipe["objective"] = {"name": "dinov2", "temperature_warmup_epochs": 2}
    return recipe


def test_sizes_and_durations_are_written_out_once(self_supervised):
    read = recipe_lib.read(self_supervised)
    resolved = setup.resolve(read, 160)
    assert resolved.objective["temperature_warmup_steps"] == 20  # 2 epochs of 160 images by 16
    assert resolved.objective["prototypes"] == 1024
    assert resolved.objective["momentum_steps"] == 4
    assert "temperature_warmup_epochs" not in resolved.objective
    # A run that goes on, or is looked at with other data, keeps what it was started with.
    assert setup.resolve(resolved, 10**6) == resolved
    supervised = dataclasses.replace(read, objective={"name": "supervised", "classes": 3})
    assert setup.resolve(supervised, 160).objective == supervised.objective


def test_a_teacher_needs_its_run_and_the_other_way_round(self_supervised):
    from vitjax.train import start

    for change in ({"teacher_from": "runs/x"}, {"objective": {"name": "dinov2", "teacher": {}}}):
        with pytest.raises(ConfigError, match=r"teacher_from and objective\.teacher"):
            start.check(recipe_lib.read(self_supervised | change))


@pytest.mark.parametrize(
    ("platform", "kind", "dtype"),
    [("tpu", "TPU v5 lite", "bfloat16"), ("cuda", "NVIDIA H200", "bfloat16"), ("cpu", "cpu", None)],
)
def test_precision_and_loops_follow_the_mesh_not_the_host(platform, kind, dtype):
    device = AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert setup.compute_dtype("auto") == (dtype or "float32")
        # Where XLA has slow code for convolutions in a loop, they are unrolled.
        assert models.create("resnet", variant="18").network.scan == (dtype is not None)
        assert compiler_options.of_platform() == compiler_options.OPTIONS.get(
            "gpu" if platform == "cuda" else platform, {}
        )


def test_flops_are_counted_where_nothing_can_be_computed(recipe):
    """A key that is made eagerly fails on the mesh of a pod that is not here."""
    read = recipe_lib.read(recipe | {"precision": "float32"})
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    batch = setup.batch_target(read, mesh)

    def views(batch, key):
        assert isinstance(key, jax.core.Tracer)
        return {"image": batch["image"]}

    encoder = models.create("vit", variant="Ti/2")
    objective = dataclasses.make_dataclass("Objective", ["flops"])(None)
    assert setup.flops_of(objective, encoder, views, batch) == 6.0 * encoder.macs(8)
