"""What the compiler of a platform is told, the same by the trainer and by `vitjax plan`."""

from vitjax.ops.device import device

# Options of jax.jit(compiler_options=...), each with its reason. `make pods` compiles with them:
# one that a compiler no longer knows is an error.
OPTIONS = {
    "tpu": {
        # The step's fusions may use 96 of the 128 MiB of vector memory of v5e and v6e (MaxText's
        # xla_flags_library.py has the same number for dense models), not 16.
        "xla_tpu_scoped_vmem_limit_kib": "98304",
    },
    "gpu": {
        # Off by default in XLA; without it no collective is hidden behind a product (jax's
        # docs/gpu_performance_tips.md).
        "xla_gpu_enable_latency_hiding_scheduler": "True",
    },
}


def options() -> dict[str, str]:
    """Of the platform of the mesh of `jax.set_mesh`."""
    return OPTIONS.get(device()[0], {})
