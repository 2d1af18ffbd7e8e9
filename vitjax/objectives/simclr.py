"""SimCLR (arXiv:2002.05709): two views of an image find each other among all of the batch."""

import jax

from vitjax.models import projection
from vitjax.objectives import monitors
from vitjax.objectives.objective import Objective
from vitjax.objectives.self_supervised import contrastive


def simclr(
    *,
    encoder,
    image_size: int,
    temperature: float = 0.1,
    head_features: int = 128,
    head_hidden: int = 2048,
    head_layers: int = 2,
    monitor_steps: int = 20,
) -> Objective:
    """views: {"global": [B, 2, S, S, 3]} of ops.multicrop, without local crops.

    Negatives are all other views of the global batch (of the micro-batch, where gradients are
    accumulated). head_*: see projection.contrastive_head; what is evaluated stands before it.
    Raises ValueError, naming the config key.
    """
    if not temperature > 0:
        raise ValueError(f"objective.temperature={temperature}: expected a number above 0")
    if monitor_steps < 1:
        raise ValueError(f"objective.monitor_steps={monitor_steps}: expected 1 at least")
    shape = encoder.shape(image_size)
    head = projection.contrastive_head(
        shape.pooled,
        features=head_features,
        hidden=head_hidden,
        layers=head_layers,
        dtype=shape.dtype,
    )

    def init(key):
        encoder_key, head_key = jax.random.split(key)
        variables = encoder.init(encoder_key, image_size=image_size)
        params = {"encoder": variables["params"], "contrast_head": head.init(head_key)}
        return params, {"stats": variables["stats"]}

    def loss(params, extra, views, key, step):
        images = views["global"]
        variables = {"params": params["encoder"], "stats": extra["stats"]}
        features, stats = encoder.apply(
            variables, images.reshape(-1, *images.shape[2:]), train=True, key=key
        )
        rows = head.apply(params["contrast_head"], features.pooled)
        value = contrastive(rows.reshape(images.shape[0], 2, -1), temperature)
        metrics = {}
        if images.shape[0] > 1:
            first = (x.reshape(-1, 2, *x.shape[1:])[:, 0] for x in features[:2])
            metrics = monitors.of_features(step, monitor_steps, *first)
        return value, (metrics, extra | {"stats": stats})

    def after(params, extra, step):
        return extra

    def encoder_variables(params, extra):
        return {"params": params["encoder"], "stats": extra["stats"]}

    def flops(views):
        crops, size = views["global"].shape[1:3]
        return crops * 6.0 * encoder.macs(size)

    expect = "expect at step 0: loss near ln(2 B - 1) for B images, where all look alike"
    return Objective(init, loss, after, encoder_variables, expect=expect, flops=flops)
