"""What the compiler of a platform is told, the same by the trainer and by `vitjax plan`."""

from vitjax.ops.device import device

# Options of jax.jit(compiler_options=...), each with its reason. `make pods` compiles with them:
# one that a compiler no longer knows is an error.
OPTIONS = {
    # Tried and not worth a line: of a ViT-B/16 step on v5e:16x16 (replica=16, data=16; libtpu
    # 0.0.42.1), xla_tpu_scoped_vmem_limit_kib=98304, which others set, changes the estimate from
    # 47.30 to 47.23 million cycles, and neither its memory nor what is asynchronous.
    "tpu": {
        # By default a product whose kernel is cut over `data` is done part by part while the parts
        # go around: 16 narrow ones that leave the matrix unit idle, most of all in convolutions.
        # Off, kernels are gathered, which hides behind other products. v5e:4x4, libtpu's estimate:
        # ResNet-50 406 to 97 million cycles, ViT-B/16 3,089 to 798; v5e:16x16 as before.
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
        # Gathers of parameters run beside products: v5e's default, v4's, v5p's and v6e's not, and
        # it takes both. ViT-L/16 on v5p:4x4x4: none of 483 gathers hidden to 264, libtpu's estimate
        # 47.6 to 44.4 ms. The same for reduce-scatters (..._fuse_reduce_scatter) does not compile
        # there: out of VMEM.
        "xla_enable_async_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    },
    "gpu": {
        # Off by default in XLA; without it no collective is hidden behind a product (jax's
        # docs/gpu_performance_tips.md).
        "xla_gpu_enable_latency_hiding_scheduler": "True",
    },
}


def of_platform() -> dict[str, str]:
    """Of the platform of the mesh of `jax.set_mesh`."""
    return OPTIONS.get(device()[0], {})
