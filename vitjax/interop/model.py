"""An encoder with its head, and the weights of both: what comes in and what goes out."""

from typing import Any, NamedTuple

import jax

from vitjax import checkpoint, models
from vitjax.interop.layout import Spec
from vitjax.interop.rules import Shape
from vitjax.models import heads
from vitjax.models.features import Encoder, Features
from vitjax.models.heads import Head


class Model(NamedTuple):
    """An encoder and, where there are classes, a head on its `pooled`.

    variables: {"encoder": params, "head": params, "stats": running statistics}, plain nested
    dicts; head and stats are {} where there are none. spec: how it was made.
    """

    encoder: Encoder
    head: Head | None
    spec: Spec

    def init(self, key) -> dict[str, Any]:
        """Fresh variables; call it under jax.jit or jax.eval_shape, as Encoder.init."""
        encoder_key, head_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key, self.spec.image_size)
        head = {} if self.head is None else self.head.init(head_key)
        return {"encoder": encoder["params"], "head": head, "stats": encoder["stats"]}

    def apply(self, variables, images, layers=()) -> tuple[jax.Array | None, Features]:
        """images: [B, H, W, 3] float, normalised as spec.preprocessing says. Returns (logits
        [B, classes] float32, None without a head; Features with the layers asked for)."""
        weights = {"params": variables["encoder"], "stats": variables["stats"]}
        features, _ = self.encoder.apply(weights, images, layers=layers)
        if self.head is None:
            return None, features
        return self.head.apply(variables["head"], features.pooled), features

    def shapes(self) -> dict[str, Any]:
        """The tree of `variables` as ShapeDtypeStructs."""
        return jax.eval_shape(self.init, jax.random.key(0))


def build(spec: Spec) -> Model:
    encoder = models.create(**spec.encoder)
    head = None
    if spec.classes:
        head = heads.classifier(encoder.width, spec.classes, hidden=spec.hidden)
    return Model(encoder, head, spec)


def flat_shapes(model: Model) -> dict[str, Shape]:
    return {path: tuple(leaf.shape) for path, leaf in checkpoint.flat(model.shapes()).items()}
