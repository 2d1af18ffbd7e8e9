"""Attention on the accelerator at hand: our kernel beside cuDNN and XLA, forward and backward.

    python benchmarks/attention.py [--tokens 197,257] [--widths 64] [--out DIR]
bfloat16, B * H >= 768. One row per length and width; under 5 minutes on an H200. TFLOP/s count the
two products of the forward pass and the five of the backward (2.5 times the forward's). What an
implementation refuses is a dash. On a CPU one tiny row, to see that it runs.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import table

from vitjax.ops.attention import Case, attention_packed, choose

LENGTHS = "197,257,577,1025,1370,4097"
HEADS = {64: 12, 128: 6}
NAMES = {"gpu": ("flash", "cudnn", "xla"), "tpu": ("flash", "xla"), "cpu": ("reference", "xla")}
ROUNDS, CALLS = 5, 10


def refused(name, shape, dtype):
    """The reason why `name` cannot run this, or ""."""
    try:
        choose(Case(shape, shape[1], dtype, 0, False), name)
    except ValueError as error:
        return str(error)
    return ""


def fits(run, arrays):
    """Whether one call can be had; it is compiled then."""
    try:
        jax.block_until_ready(run(*arrays))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return False
    return True


def seconds(programs):
    """{name: seconds of one call} of those that fit the memory: the median of ROUNDS rounds, in
    which programs take turns."""
    programs = {name: program for name, program in programs.items() if fits(*program)}
    times = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, (run, arrays) in programs.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                out = run(*arrays)
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - start) / CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(names, batch, tokens, heads, width, dtype):
    keys = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(keys[0], (batch, tokens, 3, heads, width), dtype)
    grad = jax.random.normal(keys[1], (batch, tokens, heads * width), dtype)
    row = {"N": tokens, "D": width, "B*H": batch * heads}
    forwards, both = {}, {}
    for name in names:
        reason = refused(name, (batch, tokens, heads, width), jnp.dtype(dtype))
        if reason:
            print(reason, flush=True)
            continue

        def forward(qkv, name=name):
            return attention_packed(qkv, implementation=name)

        def gradients(qkv, grad, forward=forward):
            out, pull = jax.vjp(forward, qkv)
            return out, pull(grad)

        forwards[name] = jax.jit(forward), (qkv,)
        both[name] = jax.jit(gradients), (qkv, grad)
    product = 2 * batch * heads * tokens**2 * width / 1e12
    for label, programs, products in (("fwd", forwards, 2), ("fwd+bwd", both, 7)):
        taken = seconds(programs)
        for name in names:
            speed = products * product / taken[name] if name in taken else None
            row[f"{name} {label}"] = "-" if speed is None else speed
        for other in names[1:]:
            known = names[0] in taken and other in taken
            row[f"/{other} {label}"] = taken[other] / taken[names[0]] if known else "-"
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", default=LENGTHS)
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--out", default=None, help="folder for attention.json")
    args = parser.parse_args()
    platform = jax.default_backend()
    if platform == "cpu":
        rows = [measure(NAMES["cpu"], 2, 37, 2, 64, jnp.float32)]
    else:
        rows = []
        for width in map(int, args.widths.split(",")):
            for tokens in map(int, args.tokens.split(",")):
                # B * H is 768 at least; short sequences need more of them to fill the chip.
                batch = 768 // HEADS[width] * max(1, 577 // tokens)
                rows.append(
                    measure(NAMES[platform], batch, tokens, HEADS[width], width, "bfloat16")
                )
    kind = jax.devices()[0].device_kind
    title = f"attention on {kind}: TFLOP/s, and speed of {NAMES[platform][0]} over others"
    table.publish("attention", title, rows, args.out)


if __name__ == "__main__":
    main()
