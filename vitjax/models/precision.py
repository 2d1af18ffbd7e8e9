"""What blocks may compute in, by name; parameters are float32 always."""

import jax.numpy as jnp

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
