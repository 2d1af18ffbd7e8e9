"""What the program that is being traced will run on."""

import jax


def device():
    """(platform, kind), as ("tpu", "TPU v5 lite"); platforms are "cpu", "gpu", "tpu".

    Of the mesh of `jax.set_mesh`, which may be a pod that is not here, else of the default backend.
    """
    found = jax.sharding.get_abstract_mesh().abstract_device
    found = jax.devices()[0] if found is None else found
    return "gpu" if found.platform == "cuda" else found.platform, found.device_kind
