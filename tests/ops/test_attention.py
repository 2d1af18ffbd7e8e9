"""The door to attention against arithmetic nobody here wrote, in every shape it is used in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from attention_oracle import errors, inputs, oracle, run
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from vitjax.ops import attention as door
from vitjax.ops.attention import Case, attention, attention_packed, attention_weights, choose

B, N, M, H, D = 2, 5, 7, 3, 8
HERE = ("reference", "xla", "flash")  # cuDNN has no interpreter
ANY_KEYS = ("reference", "xla")


def rectangular(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, N, H, D), (B, M, H, D), (B, M, H, D)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("implementation", [None, *ANY_KEYS])
@pytest.mark.parametrize("bias_shape", [None, (H, N, M), (B, 1, 1, M), (N, M), (1, H, N, 1)])
def test_attention_is_the_float64_oracle(implementation, bias_shape):
    q, k, v = rectangular()
    bias = None
    if bias_shape:
        bias = np.random.default_rng(1).normal(size=bias_shape).astype(np.float32)
    want = oracle(q, k, v, q, bias, scale=0.7)[0]
    bias = None if bias is None else jnp.asarray(bias)
    got = attention(
        *map(jnp.asarray, (q, k, v)), bias=bias, scale=0.7, implementation=implementation
    )
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("implementation", HERE)
@pytest.mark.parametrize(("bias_heads", "segments"), [(0, False), (1, True), (H, True)])
def test_every_implementation_and_its_gradients_are_the_oracle_packed_too(
    implementation, bias_heads, segments
):
    arrays = inputs((B, N, H, D), bias_heads, segments)
    want = oracle(*arrays, scale=D**-0.5)
    options = {"implementation": implementation}

    def apart(q, k, v, bias, segments):
        return attention(q, k, v, bias=bias, segments=segments, **options)

    def packed(q, k, v, bias, segments):
        qkv = jnp.stack([q, k, v], axis=2)
        return attention_packed(qkv, bias=bias, segments=segments, **options).reshape(q.shape)

    for form in (apart, packed):
        got = run(form, *arrays, promotion="standard")
        assert max(errors(got, want)) < 5e-6
        if segments:
            assert not np.asarray(got[0])[np.asarray(arrays[-1]) < 0].any()


@pytest.mark.parametrize("implementation", HERE)
def test_a_bias_of_two_dimensions_is_for_all_heads(implementation):
    q, k, v, grad, bias, _ = inputs((B, N, H, D), 1)
    want = oracle(q, k, v, grad, bias, scale=D**-0.5)
    got = attention(q, k, v, bias=bias[0], implementation=implementation)
    np.testing.assert_allclose(got, want[0], atol=2e-6)


def test_a_token_more_for_an_even_length_is_seen_by_nobody():
    arrays = inputs((B, N, H, D))

    def padded(q, k, v, bias, segments):
        # cuDNN's arguments, without a GPU.
        return door.at_even_lengths(q, k, v, bias, D**-0.5, "xla")

    got = run(padded, *arrays, promotion="standard")
    assert max(errors(got, oracle(*arrays, scale=D**-0.5))) < 5e-6


def test_reference_and_its_gradients_are_those_of_jax_nn():
    q, k, v = map(jnp.asarray, rectangular())
    target = jnp.asarray(np.random.default_rng(2).normal(size=(B, N, H, D)), jnp.float32)

    def value_and_grad(f):
        return jax.jit(jax.value_and_grad(lambda *x: (f(*x) * target).sum(), argnums=(0, 1, 2)))

    want = value_and_grad(jax.nn.dot_product_attention)(q, k, v)
    got = value_and_grad(lambda *x: attention(*x, implementation="reference"))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


@pytest.mark.parametrize("bias_shape", [None, (H, N, M), (M,)])
def test_weights_are_those_of_flax_and_give_back_the_output(bias_shape):
    q, k, v = map(jnp.asarray, rectangular())
    bias = None
    if bias_shape:
        bias = jnp.asarray(np.random.default_rng(1).normal(size=bias_shape), jnp.float32)
    got = attention_weights(q, k, bias=bias)
    whole = None if bias is None else jnp.broadcast_to(bias, (B, H, N, M))
    np.testing.assert_allclose(got, nn.dot_product_attention_weights(q, k, whole), atol=1e-6)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)
    out = np.einsum("bhnm,bmhd->bnhd", got, v)
    np.testing.assert_allclose(out, attention(q, k, v, bias=bias), atol=1e-6)
    sharp = attention_weights(q.astype(jnp.bfloat16), k.astype(jnp.bfloat16), scale=100.0)
    assert sharp.dtype == jnp.float32 and sharp.max() > 0.99


@pytest.mark.parametrize("implementation", ANY_KEYS)
def test_bfloat16_comes_back_as_bfloat16_and_softmax_is_float32(implementation):
    # 256 + 1/8 is not a bfloat16: were the scores rounded, both keys would get the same weight.
    q = jnp.full((1, 1, 1, 1), 16.0, jnp.bfloat16)
    k = jnp.asarray([16.0, 16.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    v = jnp.asarray([1.0, 0.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    bias = jnp.asarray([0.0, 0.125], jnp.float32).reshape(1, 1, 1, 2)
    got = attention(q, k, v, bias=bias, scale=1.0, implementation=implementation)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(got).item(), 1 / (1 + np.exp(0.125)), rtol=4e-3)


MESHES = [{"data": 8}, {"replica": 2, "data": 2, "model": 2}, {"data": 2, "model": 4}]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_on_a_mesh_the_kernel_has_a_part_of_batch_and_heads_and_gives_the_same(sizes):
    # 4 heads over 2 and 4 devices; a bias per head is cut with them, its gradient summed back.
    arrays = inputs((8, 5, 4, 32), 4, True)
    want = oracle(*arrays, scale=0.3)
    shapes = set()

    def packed(q, k, v, bias, segments):
        qkv = jnp.stack([q, k, v], axis=2)
        out = attention_packed(qkv, bias=bias, segments=segments, scale=0.3, implementation="flash")
        return out.reshape(q.shape)

    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes)
    )
    kernel = door.flash_tpu.flash_packed

    def watched(qkv, *rest):
        shapes.add(qkv.shape)
        return kernel(qkv, *rest)

    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(door.flash_tpu, "flash_packed", watched)
        got = run(packed, *arrays)
    model = sizes.get("model", 1)
    assert shapes == {(model, 5, 3, 4 // model, 32)}
    assert max(errors(got, want)) < 5e-6


def test_a_mesh_that_divides_neither_batch_nor_heads_computes_all_everywhere():
    arrays = inputs((3, 5, 3, 8), 1)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        got = run(
            lambda q, k, v, bias, _: attention(
                q, k, v, bias=bias, scale=0.3, implementation="flash"
            ),
            *arrays,
        )
    assert max(errors(got, oracle(*arrays, scale=0.3))) < 5e-6


def on(platform, kind):
    """As if the program were compiled for such a device."""
    device = AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def case(tokens=197, width=64, *, keys=None, dtype=jnp.bfloat16, bias_heads=0, segments=False):
    return Case((B, tokens, 12, width), keys or tokens, jnp.dtype(dtype), bias_heads, segments)


CPU, TPU = ("cpu", "cpu"), ("tpu", "TPU v5 lite")
HOPPER, AMPERE = ("gpu", "NVIDIA H200"), ("gpu", "NVIDIA A100-SXM4-80GB")
KERNEL = "flash" if door.flash_gpu.mosaic() else "reference"  # jax 0.11.2 has what it needs


@pytest.mark.parametrize(
    ("device", "asked", "taken"),
    [
        (CPU, case(), "reference"),
        (TPU, case(), "flash"),
        (TPU, case(4097, 128, bias_heads=12), "flash"),
        (TPU, case(dtype=jnp.float16), "reference"),
        (TPU, case(width=60), "reference"),
        (TPU, case(1, keys=196), "reference"),
        (TPU, case(bias_heads=-1), "reference"),
        (HOPPER, case(), "cudnn"),
        (HOPPER, case(1, keys=196), "cudnn"),
        (HOPPER, case(256, bias_heads=12), "cudnn"),
        (HOPPER, case(bias_heads=12), KERNEL),  # of odd length
        (HOPPER, case(segments=True), KERNEL),
        (HOPPER, case(dtype=jnp.float32), "reference"),
        (AMPERE, case(), "cudnn"),
        (AMPERE, case(segments=True), "reference"),
    ],
)
def test_each_platform_takes_the_first_that_can(device, asked, taken):
    with on(*device):
        assert choose(asked) == taken


@pytest.mark.parametrize("tokens", [196, 197])
def test_cudnn_has_a_gradient_at_every_length(tokens, monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    q = jax.ShapeDtypeStruct((B, tokens, 12, 64), jnp.bfloat16)

    def total(q, k, v):
        return attention(q, k, v, implementation="cudnn").astype(jnp.float32).sum()

    with on(*HOPPER):
        found = jax.eval_shape(jax.grad(total, argnums=(0, 1, 2)), q, q, q)
    assert [gradient.shape for gradient in found] == [q.shape] * 3


def test_what_was_passed_over_is_said_once(caplog):
    door._say_once.cache_clear()
    caplog.set_level("WARNING", logger=logging.get_absl_logger().name)
    with on(*TPU):
        for _ in range(3):
            choose(case(width=60))
    (line,) = caplog.messages
    assert line == (
        "attention goes without flash: head width is 60; "
        "the TPU kernel takes multiples of 8 up to 256"
    )


def test_one_asked_for_by_name_never_gives_way():
    q, k, v = map(jnp.asarray, rectangular())
    with pytest.raises(ValueError, match=r"'flash' cannot run: .* not 5 x 7 tokens"):
        attention(q, k, v, implementation="flash")
    with pytest.raises(ValueError, match=r"'cudnn' cannot run: .* this is for cpu"):
        attention(q, k, v, implementation="cudnn")
    known = "None or one of reference, xla, cudnn, flash"
    with pytest.raises(ValueError, match=rf"'cuda'; expected {known}"):
        attention(q, k, v, implementation="cuda")
