"""Settings by name: what is valid is a table, and a wrong name gets one clear line."""

import difflib

import jax.numpy as jnp

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def lookup(table, name, key):
    """table[name], or a ValueError that names the config key, the nearest name and all of them."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.5)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ValueError(f"{key} is {name!r}; expected one of {', '.join(table)}{hint}")
