"""The largest batch that fits under each remat policy, with as few compiles as that takes."""

import itertools
from collections.abc import Callable

from vitjax.plan import compiled_step
from vitjax.plan.compiled_step import Plan
from vitjax.plan.topology import Topology

# What the backward pass computes again, from nothing to everything (models.stack.REMAT).
REMAT = ("none", "dots", "full")
MOST = 2048  # images of a device


def best(settings: dict, topology: Topology, *, mesh=None, examples=None) -> list[Plan]:
    """The plan with the largest batch that fits under each policy, the largest of all last; where
    not one image fits, the plan for one. Arguments as of compiled_step.plan."""
    recipe = compiled_step.recipe_of(settings, topology, mesh, None)
    shards = compiled_step.shards(recipe, topology)
    plans = []
    for remat in REMAT:
        encoder = dict(settings["encoder"]) | {"remat": remat}

        def compile_for(images, encoder=encoder):
            return compiled_step.plan(
                settings | {"encoder": encoder},
                topology,
                mesh=mesh,
                batch=images * shards * recipe.accumulate,
                examples=examples,
            )

        plans.append(largest(compile_for))
    return sorted(plans, key=lambda plan: (plan.fits, plan.batch_size))


def largest(compile_for: Callable[[int], Plan], first: int = 8) -> Plan:
    """The plan of the most images of a device that fit, to within an eighth of the most there are;
    where not one fits, that of one image.

    Memory grows with the batch nearly on a straight line, and one that overflows says by how much:
    the next to try is where the line through the two nearest meets the memory there is, then an
    eighth more than what fits, which may end it, then the middle, since the line may be bent.
    """
    low, high, images = None, None, first
    for turn in itertools.count():
        plan = compile_for(images)
        if plan.fits:
            low = (images, plan)
        else:
            high = (images, plan)
        if high and high[0] == 1:
            return high[1]
        if low and (low[0] >= MOST or (high and high[0] - low[0] <= max(1, low[0] // 8))):
            return low[1]
        images = _next(low, high, plan.hbm, turn)


def _next(low, high, room: int, turn: int) -> int:
    if high is None:
        images, plan = low
        # The state is held by any batch.
        return min(MOST, max(images + 1, images * (room - plan.state) // max(1, plan.activations)))
    if low is None:
        images, plan = high
        guess = images * max(0, room - plan.state) // max(1, plan.activations)
        return min(max(1, guess), images - 1)
    (a, below), (b, above) = low, high
    line = a + (b - a) * (room - below.peak) // max(1, above.peak - below.peak)
    guess = (line, a + max(1, a // 8), (a + b) // 2)[turn % 3]
    return min(max(guess, a + 1), b - 1)
