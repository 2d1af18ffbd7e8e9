"""The contract between an objective and the train step."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """Pure functions of pytrees; losses are means over the global batch.

    init(key) -> (params, extra): gradients are taken of params; extra is what the objective keeps
        beside them (BatchNorm statistics, weight averages, teachers).
    loss(params, extra, views, key, step) -> (loss, (metrics, extra)). step: int32 scalar, the
        updates done so far.
    after(params, extra, step) -> extra: what follows update number `step`, given its new params.
    encoder_variables(params, extra) -> {"params", "stats"}: the encoder as it is evaluated.
    classify(params, extra, pooled [B, D]) -> logits [B, C] of the encoder's pooled features, by
        the same weights; None where the objective has no classes.
    head(params, extra) -> params of the `heads.classifier` that classifies; None like `classify`.
    expect: what the first losses should be and why, on one line, said as a run starts.
    alarm(step, metrics) -> what is wrong and what to change, on one line, or "". metrics: means
        since the last log line by name, None where there was none.
    flops(views) -> floating point operations of one image, forward and backward; views: what the
        loss takes, as ShapeDtypeStructs. None: three times those of the encoder's forward pass.
    """

    init: Callable
    loss: Callable
    after: Callable
    encoder_variables: Callable
    classify: Callable | None = None
    head: Callable | None = None
    expect: str = ""
    alarm: Callable[[int, dict], str] = lambda step, metrics: ""
    flops: Callable | None = None
