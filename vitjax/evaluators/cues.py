"""Which cue an answer follows: shape against texture, and colours of another image.

A readout fitted to train answers for the images of the validation sample. Every image takes the
texture or the colours of a partner: an image of another class, drawn by the seed and by its place
in the split.
"""

import numpy as np

from vitjax.evaluators import readout as readouts
from vitjax.evaluators.alterations import accuracy, check_common, generators
from vitjax.evaluators.features import Frozen, Sample
from vitjax.ops import alterations


def cue_conflict(
    train: Frozen,
    validation: Frozen,
    *,
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "shape_top1", "texture_top1", "shape_share"} where shape and texture disagree.

    shape_share: answers for the class of the shape among those for either class (arXiv:1811.12231),
    NaN where no answer is for either. The paper's texture is that of style transfer; here
    an image keeps its phase spectrum and takes the amplitude spectrum of its partner, which needs
    no further network and no labels of texture. It is the weaker texture cue of the two: compare
    encoders with one another, not with the paper's numbers.
    """
    check_cue_conflict(readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "cue_conflict")
    partner = partners(sample, seed, "cue_conflict")
    predict = readouts.readout(train, readout, k)
    images = alterations.swap_amplitude(sample.images, sample.images[partner])
    answers = predict(sample.encode(images)[0])
    shape = accuracy(answers, sample.label)
    texture = accuracy(answers, sample.label[partner])
    return {
        "top1": accuracy(predict(sample.pooled), sample.label),
        "shape_top1": shape,
        "texture_top1": texture,
        "shape_share": shape / (shape + texture) if shape + texture else float("nan"),
    }


def check_cue_conflict(*, readout, k, seed):
    check_common("cue_conflict", readout, k, seed)


def style(
    train: Frozen,
    validation: Frozen,
    *,
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "top1_recoloured", "top1_grey"}: with the mean and deviation of each channel of the
    partner, and without colour."""
    check_style(readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "style")
    partner = partners(sample, seed, "style")
    predict = readouts.readout(train, readout, k)

    def top1(images):
        return accuracy(predict(sample.encode(images)[0]), sample.label)

    return {
        "top1": accuracy(predict(sample.pooled), sample.label),
        "top1_recoloured": top1(alterations.recolour(sample.images, sample.images[partner])),
        "top1_grey": top1(alterations.grey(sample.images)),
    }


def check_style(*, readout, k, seed):
    check_common("style", readout, k, seed)


def partners(sample: Sample, seed: int, name: str) -> np.ndarray:
    """For each image of the sample the place in it, int64 [M], of an image of another class."""
    if (sample.label == sample.label[0]).all():
        raise ValueError(
            f"evaluators.{name}: the images of the sample are all of class {sample.label[0]}; "
            "it takes two classes"
        )
    # Uniform over the images of other classes: the n-th image in order of class, counted on from
    # the end of the image's own class.
    order = np.argsort(sample.label, kind="stable")
    ends = np.searchsorted(sample.label[order], sample.label, side="right")
    others = len(order) - (ends - np.searchsorted(sample.label[order], sample.label))
    steps = [rng.integers(n) for rng, n in zip(generators(sample.rows, seed), others, strict=True)]
    return order[(ends + np.array(steps)) % len(order)]
