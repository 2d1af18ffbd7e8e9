"""Multiply-adds of a traced program, for comparison with Encoder.macs."""

import math

import jax


def traced_macs(jaxpr):
    """Multiply-adds of convolutions and matrix products, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        inputs = [variable.aval for variable in equation.invars]
        if equation.primitive is jax.lax.conv_general_dilated_p:
            size = equation.outvars[0].aval.size
            total += size * inputs[1].size // inputs[1].shape[-1]
        if equation.primitive is jax.lax.dot_general_p:
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(inputs[0].shape[i] for i in contracted)
            total += equation.outvars[0].aval.size * depth
        inner = equation.params.get("jaxpr")
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            total += equation.params.get("length", 1) * traced_macs(inner)
    return total
