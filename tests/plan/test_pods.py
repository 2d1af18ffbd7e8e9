"""What the compiler makes of whole train steps for pods: where parameters are gathered, how
gradients are reduced, what lies whole on every chip. Needs the [tpu] extra."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vitjax import config
from vitjax.models import resnet
from vitjax.plan import compiled_step, topology
from vitjax.plan import program as program_lib
from vitjax.sharding import mesh as mesh_lib

pytestmark = [
    pytest.mark.pods,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: the [tpu] extra"
    ),
]
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
# Bytes that all-to-alls may move: none, but for a norm's numbers in the gradient of a ConvNet.
CASES = {"vit_b16": 0, "vit_l16": 0, "vit_g14": 0, "resnet50": 16384}
POD = "v5e:16x16"


@pytest.fixture(scope="module", params=CASES)
def found(request):
    """(name of the config, step, plan, program, collectives)."""
    name, pod = request.param, topology.find(POD)
    step = compiled_step.lower(config.load(str(CONFIGS / f"{name}.py")), pod)
    plan, program = compiled_step.compiled(step)
    return name, step, plan, program, program_lib.collectives(program)


def test_it_fits_and_computes_in_bfloat16_with_kernels(found):
    name, step, plan, _, _ = found
    assert plan.fits and plan.mfu > 0
    depth = 0 if name == "resnet50" else len(step.experiment.encoder.layers)
    assert plan.kernels >= 2 * depth and bool(plan.kernels) == bool(depth)


def test_parameters_are_gathered_layer_by_layer(found):
    _, step, _, _, places = found
    params = step.experiment.target.params
    stacked = [leaf.shape for leaf in jax.tree.leaves(params["encoder"].get("blocks", {}))]
    gathers = [place for place in places if place.kind.startswith("all-gather")]
    assert any(place.loops for place in gathers) or not stacked
    whole = sum(math.prod(shape) for shape in stacked) * 4
    # One kernel of one layer at a time, not the stack.
    assert not stacked or max(place.bytes for place in gathers if place.loops) < whole / 20


def test_gradients_are_scattered_and_nothing_is_turned(found):
    name, _, plan, _, places = found
    assert "reduce-scatter" in {place.kind for place in places}
    turned = sum(place.turns * place.bytes for place in places if place.kind == "all-to-all")
    assert turned <= CASES[name]
    # What is reduced whole is small: norms, biases, numbers of the step; over slices all of it.
    if plan.mesh["replica"] == 1:
        largest = max(place.bytes for place in places if place.kind == "all-reduce")
        assert largest < plan.parameters


def test_the_state_is_cut_over_the_pod(found):
    _, _, plan, _, _ = found
    assert plan.replicated < 0.1 * plan.state * plan.mesh["data"]


def test_kernels_are_gathered_and_not_passed_around():
    """Where all chips share the parameters, libtpu would do each product in 16 narrow parts."""
    settings = config.load(str(CONFIGS / "vit_b16.py"))
    plan = compiled_step.plan(settings, topology.find("v5e:4x4"))
    moved = {row["kind"]: row["bytes"] for row in plan.collectives}
    assert plan.mesh["replica"] == 1
    assert moved.get("collective-permute", 0) < 0.01 * moved["all-gather"]


def test_gathers_run_beside_products_where_that_is_no_default():
    settings = config.load(str(CONFIGS / "vit_l16.py"))
    plan = compiled_step.plan(settings, topology.find("v5p:4x4x4"))
    gathers = next(row for row in plan.collectives if row["kind"] == "all-gather")
    assert gathers["asynchronous"] > gathers["count"] / 2


def test_a_strided_block_for_v6e_is_compiled_within_the_stack_of_libtpus_threads():
    """The first block of a ResNet-50's second stage: with 64 KiB the process is killed."""
    mesh = mesh_lib.make_mesh(devices=topology.find("v6e:1x1").devices)
    whole = NamedSharding(mesh, PartitionSpec())
    block = resnet.Bottleneck(
        features=128, stride=2, norm="batch", zero_init=False, train=True, dtype=jnp.bfloat16
    )

    def loss(variables, x):
        y, _ = block.apply(variables, x, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 2).sum()

    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((4, 56, 56, 256), jnp.bfloat16, sharding=whole)
        variables = jax.eval_shape(lambda x: block.init(jax.random.key(0), x), x)
        variables = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), variables
        )
        jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x).compile()
