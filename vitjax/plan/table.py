"""Plans for people: one in full, several as a table."""

from vitjax.plan.compiled_step import Plan, remedies
from vitjax.plan.program import GATHER_BY_SUM
from vitjax.plan.topology import GIB

MFU = (
    "MFU = images/s/chip x FLOP/image / peak FLOP/s; FLOP/image = 6 x multiply-adds, remat left out"
)


def text(plan: Plan) -> str:
    """All that a plan says."""
    mesh = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items())
    lines = [
        f"{plan.topology}: {plan.devices} devices, mesh {mesh}, batch {plan.batch_size} "
        f"({plan.images} images a device), remat {plan.remat or 'none'}",
        f"  parameters {gib(plan.parameters)}, optimizer {gib(plan.optimizer)}, averages and "
        f"teachers {gib(plan.extra)}, activations {gib(plan.activations)}",
        f"  peak {gib(plan.peak)} of {gib(plan.hbm)} a device ({plan.peak / plan.hbm:.0%})",
    ]
    if plan.replicated > 0.05 * plan.state:
        lines.append(f"  of the state {gib(plan.replicated)} is whole on every device")
    if not plan.fits:
        lines.append(f"  DOES NOT FIT, {gib(plan.peak - plan.hbm)} too much. What would change it:")
        lines += [f"    {remedy}" for remedy in remedies(plan)]
    if plan.buffers:
        lines.append("  largest arrays that it makes:")
    for buffer in plan.buffers:
        count = f" x {buffer['count']}" if buffer["count"] > 1 else ""
        where = buffer["line"] or buffer["scope"]
        lines.append(f"    {gib(buffer['bytes'])}{count}  {buffer['shape']}  {where}")
    if plan.fits:
        lines.append(
            "  collectives in a step, of a device:" + ("" if plan.collectives else " none")
        )
    for row in plan.collectives:
        lines.append(
            f"    {row['kind']}: {row['count']}, {gib(row['bytes'])}, "
            f"{row['asynchronous']} of them asynchronous"
        )
    if plan.fits:
        lines.append(f"  attention kernels: {plan.kernels}")
    lines.append(f"  {plan.flops_per_image / 1e9:.4g} GFLOP an image, forward and backward")
    if plan.step_seconds is not None:
        lines.append(
            f"  by the compiler's own estimate, which no chip confirmed: "
            f"{1e3 * plan.step_seconds:.1f} ms a step, "
            f"{plan.batch_size / plan.step_seconds:,.0f} images/s, MFU {plan.mfu:.0%}"
        )
        lines.append(f"    {MFU}")
    lines += [f"  idle: {line}" for line in plan.advice]
    lines.append(f"  compiled in {plan.compile_seconds:.0f} s")
    return "\n".join(lines)


COLUMNS = (
    *("topology", "batch", "images/chip", "remat", "state GiB", "peak GiB", "of GiB", "fits"),
    *("gathered GiB", "reduced GiB", "async", "est. ms", "est. MFU", "compile s"),
)


def row(plan: Plan) -> dict[str, str]:
    """One line of a table, by COLUMNS."""
    by_kind = {row["kind"]: row["bytes"] for row in plan.collectives}
    counts = [(row["asynchronous"], row["count"]) for row in plan.collectives]
    done = sum(count for _, count in counts)
    gathered = by_kind.get("all-gather", 0) + by_kind.get(GATHER_BY_SUM, 0)
    reduced = by_kind.get("reduce-scatter", 0) + by_kind.get("all-reduce", 0)
    known = plan.step_seconds is not None
    values = (
        plan.topology,
        plan.batch_size,
        plan.images,
        plan.remat or "none",
        f"{plan.state / GIB:.2f}",
        f"{plan.peak / GIB:.2f}",
        f"{plan.hbm / GIB:.2f}",
        "yes" if plan.fits else "no",
        f"{gathered / GIB:.2f}" if plan.fits else "",
        f"{reduced / GIB:.2f}" if plan.fits else "",
        f"{sum(a for a, _ in counts) / done:.0%}" if done else "",
        f"{1e3 * plan.step_seconds:.1f}" if known else "",
        f"{plan.mfu:.0%}" if known else "",
        f"{plan.compile_seconds:.0f}",
    )
    return dict(zip(COLUMNS, map(str, values), strict=True))


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows of equal keys."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)])


def gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB / 100 else f"{size / 2**20:.3g} MiB"
