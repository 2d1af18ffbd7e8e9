"""Eigenvalues that are cheap to compile for a TPU."""

import jax
import jax.numpy as jnp


def eigenvalues(a):
    """Of a symmetric matrix [n, n], ascending, in two loops: Householder's reflections make it
    tridiagonal (Golub and Van Loan, sec. 8.3.1), bisection finds the values.

    jnp.linalg.eigvalsh is polar decompositions on a TPU, which take libtpu minutes to compile.
    """
    index = jnp.arange(a.shape[0])

    def reflect(k, a):
        row = jnp.where(index > k, a[k], 0.0)
        longer = jnp.copysign(jnp.linalg.norm(row), a[k, k + 1])
        v = row + jnp.where(index == k + 1, longer, 0.0)
        v = v * jax.lax.rsqrt(jnp.maximum(jnp.sum(v * v), 1e-30))
        w = jnp.sum(a * v[None], axis=1)
        w = w - v * jnp.sum(v * w)
        return a - 2 * (v[:, None] * w[None] + w[:, None] * v[None])

    a = jax.lax.fori_loop(0, a.shape[0] - 2, reflect, a)
    diagonal, beside = jnp.diagonal(a), jnp.diagonal(a, 1)
    return jax.scipy.linalg.eigh_tridiagonal(diagonal, beside, eigvals_only=True)
