"""Learning from labels: an encoder, a head, a classification loss, maybe a weight average."""

import jax
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.models import heads
from vitjax.objectives.losses import LOSSES, smooth
from vitjax.objectives.objective import Objective


def supervised(
    *,
    encoder,
    image_size: int,
    classes: int,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    head_hidden: int = 0,
    head_bias: float = 0.0,
    ema_decay: float | None = None,
) -> Objective:
    """Classify images. views: {"image": [B, S, S, 3], "label": float32 [B, C] soft targets}.

    loss: a name in LOSSES. head_hidden: width of a tanh layer before the logits, 0 for none.
    head_bias: start of the bias of the logits (-ln C suits "sigmoid"). ema_decay: keep a float32
    average of all parameters and of BatchNorm's statistics, and evaluate it. Raises ValueError,
    naming the config key, where a value is out of range.
    """
    check(classes, loss, label_smoothing, head_hidden, ema_decay)
    head = heads.classifier(encoder.width, classes, hidden=head_hidden, bias=head_bias)
    loss_fn = LOSSES[loss]

    def evaluated(params, extra):
        return params if ema_decay is None else extra["ema"]

    def init(key):
        encoder_key, head_key = jax.random.split(key)
        variables = encoder.init(encoder_key, image_size=image_size)
        params = {"encoder": variables["params"], "head": head.init(head_key)}
        extra = {"stats": variables["stats"]}
        if ema_decay is not None:
            # A copy: one buffer in both places could not be donated to the step.
            start = {"ema": params, "ema_stats": variables["stats"]}
            extra |= jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), start)
        return params, extra

    def loss_of(params, extra, views, key, step):
        del step
        variables = {"params": params["encoder"], "stats": extra["stats"]}
        features, stats = encoder.apply(variables, views["image"], train=True, key=key)
        logits = head.apply(params["head"], features.pooled)
        hit = jnp.argmax(logits, axis=-1) == jnp.argmax(views["label"], axis=-1)
        metrics = {"top1": jnp.mean(hit.astype(jnp.float32))}
        value = loss_fn(logits, smooth(views["label"], label_smoothing))
        return value, (metrics, extra | {"stats": stats})

    def after(params, extra, step):
        if ema_decay is None:
            return extra
        averaged = {"ema": extra["ema"], "ema_stats": extra["ema_stats"]}
        latest = {"ema": params, "ema_stats": extra["stats"]}
        return extra | average(averaged, latest, ema_decay, step)

    def encoder_variables(params, extra):
        stats = extra["stats"] if ema_decay is None else extra["ema_stats"]
        return {"params": evaluated(params, extra)["encoder"], "stats": stats}

    def head_params(params, extra):
        return evaluated(params, extra)["head"]

    def classify(params, extra, pooled):
        return head.apply(head_params(params, extra), pooled)

    return Objective(init, loss_of, after, encoder_variables, classify, head_params)


def average(ema, params, decay: float, step):
    """ema + (1 - d) (params - ema) with d = min(decay, (1 + step) / (10 + step)), in float32.

    The bound lets the average forget the random start: tf.train.ExponentialMovingAverage with
    num_updates = step.
    """
    step = jnp.asarray(step).astype(jnp.float32)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(jnp.float32) - e), ema, params)


def check(classes, loss, label_smoothing, head_hidden, ema_decay):
    if classes < 2:
        raise ValueError(f"objective.classes={classes}: expected at least 2; change data.source")
    lookup(LOSSES, loss, "objective.loss")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"objective.label_smoothing={label_smoothing}: expected a share in [0, 1)")
    if loss == "positive" and label_smoothing:
        raise ValueError(
            f"objective.label_smoothing={label_smoothing}: expected 0 with "
            "objective.loss='positive', which counts every class above 0 as present"
        )
    if head_hidden < 0:
        raise ValueError(f"objective.head_hidden={head_hidden}: expected a width, or 0 for none")
    if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
        raise ValueError(f"objective.ema_decay={ema_decay}: expected None, or a decay in [0, 1)")
