"""Data that several tests share, prepared once."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A TFDS data directory; the digits are written into it at first use."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real archives."""
    if "VITJAX_TEST_DATA" not in os.environ:
        pytest.skip("VITJAX_TEST_DATA names no folder with cifar10.tar.xz and photos.tar")
    return pathlib.Path(os.environ["VITJAX_TEST_DATA"])


@pytest.fixture(autouse=True, scope="session")
def cache_dir(tmp_path_factory):
    """Unpacked archives stay out of the home folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VITJAX_CACHE", str(folder))
        yield folder
