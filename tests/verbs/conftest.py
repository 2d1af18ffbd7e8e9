"""A trained run, for the verbs that open one."""

import pytest

from vitjax.train import loop


@pytest.fixture(scope="session")
def trained(settings, tmp_path_factory):
    """A run of 4 steps, with the average of its weights."""
    workdir = tmp_path_factory.mktemp("run")
    average = settings["objective"] | {"ema_decay": 0.5}
    loop.run(settings | {"objective": average}, workdir)
    return workdir
