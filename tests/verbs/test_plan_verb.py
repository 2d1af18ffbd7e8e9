"""vitjax plan: what it is asked is checked before anything is compiled."""

import pathlib

import pytest

from vitjax.verbs import plan

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "vit_b16.py")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--topology=v5litepod-16"], "expected CHIP:SHAPE"),
        (["--topology=v5e:4x4", "--batch=some"], "--batch='some': expected a number of images"),
        (["--topology=v5e:4x4", "--mesh=data=x"], "--mesh='data=x': expected replica="),
        (["--topology=v5e:4x4", "--mesh=dta=4"], "--mesh='dta=4': expected replica="),
        (["--topology=v5e:4x4", "--bach=4"], "unexpected argument '--bach=4'"),
        (["--topology=v5e:4x4", "--config.bach_size=4"], "bach_size is unknown; did you mean"),
        (["--topology=v5e:4x4", "--config.data.dataset=mine"], "give --examples"),
        (["--topology=v5e:4x4", "--mesh=data=3"], "does not cover 16 devices"),
    ],
)
def test_a_bad_argument_is_one_line(more, message, monkeypatch):
    class Here:  # 16 of something, so that no compiler is needed
        devices, slices, platform = [object()] * 16, 1, "tpu"

    monkeypatch.setattr(plan.topology, "find", lambda name: Here())
    with pytest.raises(ValueError, match=message) as error:
        plan.run(["--config", CONFIG, *more])
    assert "\n" not in str(error.value)
