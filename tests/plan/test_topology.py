"""Names of topologies, and what is said of those that are none."""

import pytest

from vitjax.plan import topology
from vitjax.train import clock


def test_a_name_is_slices_chip_and_shape():
    assert topology.parse("v5e:16x16") == (1, "v5e", (16, 16))
    assert topology.parse("2xv5p:4x4x4") == (2, "v5p", (4, 4, 4))
    assert topology.parse("h200:4x8") == (1, "h200", (4, 8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5litepod-16", r"expected CHIP:SHAPE as v5e:16x16"),
        ("v5x:4x4", r"v5x.*did you mean 'v5"),
        ("v5p:4x4", r"v5p has 3 dimensions, as in v5p:4x4x4"),
        ("v5e:4x4x4", r"v5e has 2 dimensions"),
        ("0xv5e:4x4", r"v5e has 2 dimensions"),
    ],
)
def test_what_is_no_topology_is_refused(name, message):
    with pytest.raises(ValueError, match=message) as error:
        topology.parse(name)
    assert "\n" not in str(error.value)


def test_every_chip_has_a_peak():
    assert all(clock.peak_flops(chip.kind) for chip in topology.CHIPS.values())


def test_a_compiler_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs libtpu.*pip install vitjax\[tpu\]"):
        topology.find("v5e:2x2")
    with pytest.raises(ValueError, match=r"CUDA plugin.*pip install vitjax\[cuda\]"):
        topology.find("h100:1x8")
