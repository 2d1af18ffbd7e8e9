"""What is learnt: pure losses, and what follows an update."""

from vitjax.lookup import lookup
from vitjax.objectives import frozen, supervised
from vitjax.objectives.objective import Objective

OBJECTIVES = {
    "frozen": frozen.frozen,
    "supervised": supervised.supervised,
}


def create(name: str, *, encoder, image_size: int, **settings) -> Objective:
    """The objective called `name`. encoder: models.Encoder. Settings are its keyword arguments."""
    make = lookup(OBJECTIVES, name, "objective.name")
    return make(encoder=encoder, image_size=image_size, **settings)


__all__ = ["OBJECTIVES", "Objective", "create"]
