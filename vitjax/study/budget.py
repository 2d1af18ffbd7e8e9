"""How long a run is: equal steps, equal epochs, or equal floating point operations.

Each hides something. Equal epochs starve small subsets of steps; equal steps let them be learned by
heart; equal operations make the patch size and the resolution a free parameter of attention.
"""

from collections.abc import Mapping

WORDS = {
    "steps": "equal steps: every run makes {steps} updates, so a small subset is seen more often",
    "epochs": "equal epochs: every run sees its subset {epochs} times, so a small subset makes few "
    "updates",
    "flops": "equal FLOPs: every run takes as many floating point operations as {steps} updates of "
    "{flops_of}, to the step",
}


def kind(budget: Mapping) -> str:
    """steps, epochs or flops."""
    return "flops" if "flops_of" in budget else "epochs" if "epochs" in budget else "steps"


def say(budget: Mapping) -> str:
    """A budget in words."""
    return WORDS[kind(budget)].format(**budget)


def steps(
    budget: Mapping, *, examples: int, batch_size: int, flops: float, reference: float
) -> int:
    """Updates of a run, at least one.

    examples: images of the subset. flops, reference: floating point operations of one image,
    forward and backward, of this encoder and of the one that `flops_of` names (analytic, see
    Encoder.macs).
    """
    count = {
        "steps": lambda: budget["steps"],
        "epochs": lambda: budget["epochs"] * examples / batch_size,
        "flops": lambda: budget["steps"] * reference / flops,
    }
    return max(1, round(count[kind(budget)]()))
