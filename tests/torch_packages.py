"""What stands on torch, as the parity tests import it."""

from unittest import mock

import pytest


def package(name):
    """timm, torchvision or transformers. torchvision has no CPU build for every machine: its
    compiled operators are not needed here, so their absence is passed over."""
    pytest.importorskip("torch", reason="needs the torch extra: pip install vitjax[torch]")
    with mock.patch("torch.library.register_fake", lambda name: lambda f: f):
        pytest.importorskip("torchvision", reason="needs the torch extra")
    return pytest.importorskip(name, reason="needs the torch extra: pip install vitjax[torch]")
