"""What the compiler of a platform is told, the same by the trainer and by `vitjax plan`."""

from vitjax.ops.device import device

# Options of jax.jit(compiler_options=...), each with its reason. `make pods` compiles with them:
# one that a compiler no longer knows is an error.
OPTIONS = {
    # None that was tried earns a line. Of a ViT-B/16 step on v5e:16x16 (replica=16, data=16; libtpu
    # 0.0.42.1), xla_tpu_scoped_vmem_limit_kib=98304, which others set, changes the estimate from
    # 47.30 to 47.23 million cycles, and neither its memory nor what is asynchronous.
    "tpu": {},
    "gpu": {
        # Off by default in XLA; without it no collective is hidden behind a product (jax's
        # docs/gpu_performance_tips.md).
        "xla_gpu_enable_latency_hiding_scheduler": "True",
    },
}


def of_platform() -> dict[str, str]:
    """Of the platform of the mesh of `jax.set_mesh`."""
    return OPTIONS.get(device()[0], {})
