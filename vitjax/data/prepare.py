"""Writes scikit-learn's handwritten digits as a TFDS data set of ArrayRecord files."""

import contextlib
import io
import os
import pathlib
import tempfile
from typing import ClassVar

import numpy as np
import sklearn.datasets
import sklearn.model_selection
import tensorflow_datasets as tfds
from PIL import Image

TEST_EXAMPLES = 359  # a fifth of 1797


class VitjaxDigits(tfds.core.GeneratorBasedBuilder):
    """1797 real handwritten digits, 8 x 8 pixels (UCI, optical recognition of digits, test part).

    The images stand in the order of their writers: `writers` tests on the last fifth of them,
    so on people who wrote nothing for training; `random` tests on a stratified random fifth.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="random", description="A stratified random fifth is test."),
        tfds.core.BuilderConfig(
            name="writers", description="The last fifth, new writers, is test."
        ),
    ]

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
            license="CC BY 4.0",
            disable_shuffling=True,  # the writers' order is worth keeping
        )

    def _split_generators(self, dl_manager):
        digits = sklearn.datasets.load_digits()
        positions = np.arange(len(digits.target))
        if self.builder_config.name == "writers":
            train, test = np.split(positions, [-TEST_EXAMPLES])
        else:
            train, test = sklearn.model_selection.train_test_split(
                positions, test_size=TEST_EXAMPLES, stratify=digits.target, random_state=0
            )
        return {
            "train": self._generate_examples(digits, np.sort(train)),
            "test": self._generate_examples(digits, np.sort(test)),
        }

    def _generate_examples(self, digits, positions):
        for position in positions.tolist():
            pixels = np.rint(digits.images[position] * (255 / 16)).astype(np.uint8)
            png = io.BytesIO()  # encoded here, as TFDS would call TensorFlow for an array
            Image.fromarray(pixels).save(png, "PNG")
            yield position, {"image": png.getvalue(), "label": int(digits.target[position])}


def prepare_digits(data_dir=None, split_by="random"):
    """Writes the digits under data_dir unless they are there. Returns the folder of the data set.

    data_dir: None is TFDS's own default. split_by: "random" or "writers". They are written aside
    and moved into place whole: several processes may prepare at once, and an interrupted one
    leaves no half-written data set.
    """
    data_dir = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
    names = [config.name for config in VitjaxDigits.BUILDER_CONFIGS]
    if split_by not in names:
        raise ValueError(
            f"the digits are split by {' or '.join(names)}, got data.split_by={split_by!r}"
        )
    relative = pathlib.Path(VitjaxDigits.name, split_by, str(VitjaxDigits.VERSION))
    folder = pathlib.Path(data_dir, relative)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="incomplete.") as aside:
        builder = VitjaxDigits(data_dir=aside, config=split_by, file_format="array_record")
        quiet = io.StringIO()  # a second of work, announced by a dozen lines
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder.download_and_prepare()
        try:
            os.rename(pathlib.Path(aside, relative), folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same bytes
                raise
    return folder
