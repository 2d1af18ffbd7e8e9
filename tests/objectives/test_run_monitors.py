"""Numbers that a self-supervised run reports of itself, on the accelerator."""

import jax
import numpy as np
import pytest

from vitjax.objectives import monitors
from vitjax.ops import statistics


@pytest.mark.parametrize("shape", [(50, 12), (12, 50)])
def test_rankme_on_a_tpu_is_that_of_numpy(shape, monkeypatch):
    rows = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 2, shape[1])

    def on_tpu(x, *, tpu, default):
        return tpu(x)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_tpu)
    got = monitors.rankme(rows.astype(np.float32))
    assert got == pytest.approx(statistics.rankme(rows), rel=1e-3)


def test_what_is_compiled_for_a_tpu_has_no_polar_decomposition():
    """Which libtpu takes minutes for."""
    rows = jax.ShapeDtypeStruct((300, 300), np.float32)

    def text(function):
        return jax.export.export(jax.jit(function), platforms=["tpu"])(rows).mlir_module()

    assert "eigh_work" in text(jax.numpy.linalg.eigvalsh)
    assert "eigh_work" not in text(monitors.rankme)
