"""What a plan says of memory, and of what to change; no compiler for pods is needed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from vitjax.plan import advice, compiled_step, table
from vitjax.plan.topology import CHIPS, GIB
from vitjax.sharding import rules

PLAN = compiled_step.Plan(
    topology="v5e:4x4",
    devices=16,
    mesh={"replica": 1, "data": 16, "model": 1},
    batch_size=1024,
    remat="none",
    fits=True,
    hbm=16 * GIB,
    peak=12 * GIB,
    parameters=1 * GIB,
    optimizer=2 * GIB,
    extra=1 * GIB,
    replicated=0,
    flops_per_image=1e11,
    advice=[],
    versions={"jax": "0"},
    compile_seconds=3.0,
)


def test_activations_are_what_the_state_leaves_of_the_peak():
    assert PLAN.state == 4 * GIB and PLAN.activations == 8 * GIB and PLAN.images == 64
    assert "activations 8 GiB" in table.text(PLAN) and "75%" in table.text(PLAN)


def test_a_message_of_the_compiler_is_a_number_of_bytes():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out "
        "of memory in memory space hbm. Used 32.50G of 15.75G hbm. Exceeded hbm capacity by 16.75G."
    )
    assert compiled_step.overflow(message) == 32.5 * GIB
    earlier = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (101.75G) exceeds available HBM (95.74G)."
    )
    assert compiled_step.overflow(earlier) == 101.75 * GIB
    with pytest.raises(RuntimeError, match="the compiler failed: INTERNAL: no such thing"):
        compiled_step.overflow("INTERNAL: no such\nthing")


def test_what_does_not_fit_says_what_to_change():
    over = dataclasses.replace(PLAN, fits=False, peak=20 * GIB)  # activations are 16 of 12 GiB
    said = compiled_step.remedies(over)
    assert said[0].startswith("encoder.remat=dots (now none)")
    assert said[1].startswith("batch_size=768,")
    text = table.text(over)
    assert "DOES NOT FIT, 4 GiB too much" in text and "batch_size=768" in text
    whole = dataclasses.replace(over, optimizer=14 * GIB, replicated=15 * GIB, remat="full")
    assert "sharding.parameters=fsdp" in compiled_step.remedies(whole)[0]
    assert any("mesh.model" in line for line in compiled_step.remedies(whole))


def test_bytes_of_the_state_are_those_of_one_device():
    mesh = Mesh(
        np.array(jax.devices()).reshape(1, 4, 2),
        ("replica", "data", "model"),
        axis_types=(AxisType.Auto,) * 3,
    )
    tree = {
        "blocks": {"mlp": {"up": {"kernel": jnp.zeros((3, 64, 512))}}},  # cut over data and model
        "scale": jnp.zeros((7,)),  # small: whole, and no matter
        "odd": jnp.zeros((131, 129)),  # large, and nothing divides it
    }
    placed = rules.shardings(tree, mesh)
    target = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, placed
    )
    assert compiled_step.held(target) == 4 * (3 * 64 * 512 // 8 + 7 + 131 * 129)
    assert compiled_step.held(target, whole=True) == 4 * 131 * 129


@pytest.mark.parametrize(
    ("size", "unit", "near", "share"),
    [(1408, 128, [1408, 1408], 0.0), (88, 128, [128], 40 / 128), (1152, 256, [1024, 1280], 0.1)],
)
def test_the_nearest_sizes_are_multiples(size, unit, near, share):
    assert advice.nearest(size, unit) == near
    assert advice.idle(size, unit) == pytest.approx(share)


def test_chips_hold_less_than_is_written_on_them():
    sold = {"v4": 32, "v5e": 16, "v5p": 96, "v6e": 32, "a100": 80, "h100": 80, "h200": 141}
    assert {name: chip.hbm < sold[name] for name, chip in CHIPS.items()} == dict.fromkeys(
        sold, True
    )
