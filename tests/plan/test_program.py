"""The text of a compiled program is read as what it does, loops as often as they run."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.plan import program as program_lib
from vitjax.plan.program import Program

L, B, D = 3, 16, 24  # layers, rows, width
SAMPLE = pathlib.Path(__file__).with_name("libtpu.txt")  # in its form, made small by hand


def compiled(function, *arrays, mesh):
    with jax.set_mesh(mesh):
        return Program(jax.jit(function).lower(*arrays).compile().as_text())


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def array(shape, spec, mesh):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))


def layers(mesh, x, kernels, outside=False):
    """L products with kernels that are cut over `data`, gathered in the loop or before it."""
    gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)

    def run(x, kernels):
        if outside:
            kernels = gather(kernels, axis=1)

        def layer(x, kernel):
            kernel = kernel if outside else gather(kernel)
            return jnp.tanh(x @ kernel), None

        x, _ = jax.lax.scan(layer, x, kernels)
        return jax.lax.psum(x.sum(), "data")

    specs = (P("data"), P(None, "data"))
    return jax.shard_map(run, in_specs=specs, out_specs=P(), mesh=mesh, check_vma=False)(x, kernels)


@pytest.fixture(scope="module", params=[False, True], ids=["in the loop", "before it"])
def gathering(request, mesh):
    x, kernels = array((B, D), P("data"), mesh), array((L, D, D), P(None, "data"), mesh)
    program = compiled(
        lambda x, kernels: layers(mesh, x, kernels, request.param), x, kernels, mesh=mesh
    )
    return request.param, program


def test_a_gather_in_a_loop_counts_as_often_as_it_runs(gathering):
    outside, program = gathering
    rows = {row.kind: row for row in program_lib.moved(program_lib.collectives(program))}
    assert set(rows) == {"all-gather", "all-reduce"}
    # The same bytes cross: layer by layer, or all at once.
    assert rows["all-gather"].count == (1 if outside else L)
    assert rows["all-gather"].bytes == L * D * D * 4
    assert (rows["all-reduce"].count, rows["all-reduce"].bytes) == (1, 4)
    assert not any(row.asynchronous for row in rows.values())


def test_where_a_gather_stands_is_known(gathering):
    outside, program = gathering
    (gather,) = [c for c in program_lib.collectives(program) if c.kind == "all-gather"]
    assert len(gather.loops) == (0 if outside else 1)
    assert gather.line.startswith("tests/plan/test_program.py:") or "all_gather" in gather.scope
    assert max(c.bytes for c in program_lib.collectives(program)) == gather.bytes


def test_the_largest_arrays_come_first_with_what_made_them(mesh):
    def function(x):
        table = jnp.exp(x[:, None] + x[None])
        return table, table.sum()

    program = compiled(function, array((96,), P(), mesh), mesh=mesh)
    largest = program_lib.buffers(program, most=1)[0]
    assert largest.bytes == 96 * 96 * 4 and largest.shape == "f32[96,96]"


def test_a_branch_counts_as_often_as_it_is_said_to_be_taken(mesh):
    def function(x, which):
        branches = (jnp.sin, jnp.cos, lambda x: jnp.sort(x, axis=0))
        return jax.lax.fori_loop(0, L, lambda _, x: jax.lax.switch(which, branches, x), x)

    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, P()))
    program = compiled(function, array((B, D), P(), mesh), scalar, mesh=mesh)

    def sorts(**taken):
        turns = [v.turns for v in program.walk(**taken) if v.instruction.operation == "sort"]
        return sum(turns)

    assert sorts() == L
    assert sorts(taken=lambda _, branches: (0.5, 0.25, 0.25)) == 0.25 * L
    assert sorts(taken=program_lib.typically) == pytest.approx(L / 3)


def test_a_scope_says_how_seldom_a_branch_is_taken(mesh):
    def look(x):
        return jax.lax.stop_gradient(jnp.sort(x, axis=0)).sum()

    def loss(x, step):
        with jax.named_scope("every_20_steps"):  # in a gradient: jvp(every_20_steps)
            seen = jax.lax.cond(step % 20 == 0, look, jnp.sum, x)
        return (x**2).sum(), seen

    function = jax.grad(loss, has_aux=True)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, P()))
    program = compiled(function, array((B, D), P(), mesh), scalar, mesh=mesh)
    visits = program.walk(taken=program_lib.typically)
    assert sum(v.turns for v in visits if v.instruction.operation == "sort") == 1 / 20


def test_what_libtpu_writes_is_read():
    program = Program(SAMPLE.read_text())
    assert program_lib.estimated_cycles(program) == 12 * 50 + 7
    assert program_lib.kernels(program) == (12, 12_000.0)
    found = program_lib.collectives(program)
    kinds = ["all-gather", "all-gather by all-reduce", "all-reduce", "reduce-scatter"]
    # The last gather begins in one fusion and goes on within another.
    assert [place.kind for place in found] == [*kinds, "all-gather"]
    # A row of 200 lies in memory as two tiles of 128 lanes; a reduce-scatter is of what goes in.
    rows = [8, 16, 8, 8, 8]
    assert [place.bytes for place in found] == [count * 256 * 2 for count in rows]
    assert [place.asynchronous for place in found] == [True, False, False, False, True]
    assert {place.turns for place in found} == {12}
    # The line of vitjax, not of the library below it nor of what calls it.
    assert found[2].line == "vitjax/train/step.py:45"
    (row,) = [row for row in program_lib.moved(found) if row.kind == "all-reduce"]
    assert row == ("all-reduce", 12, 12 * 8 * 256 * 2, 0)
    assert program_lib.shape_bytes("(f32[3,4]{1,0:T(8,128)}, u8[4])") == 8 * 128 * 4 + 4
