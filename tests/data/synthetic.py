"""A source in memory for the tests of the pipeline; a module, so that workers can import it."""

import sys

import numpy as np

from vitjax.data.info import Info

BROKEN = b"\xff\xd8\xff no image"


class Arrays:
    """Images of different sizes that name their index; `broken` ones are garbage."""

    def __init__(self, count, classes=3, broken=()):
        self.count = count
        self.broken = frozenset(broken)
        self.annotations = self.lacking = ()
        self.labels = np.arange(count, dtype=np.int32) % classes
        self.info = Info("arrays", tuple(f"class{i}" for i in range(classes)), "none")

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = int(self.labels[index])
        if index in self.broken:
            return {"image": BROKEN, "label": label}
        pixels = np.full((2 + index % 3, 3 + index % 2, 3), index % 251, np.uint8)
        return {"image": pixels, "label": label}

    def key(self, index):
        return f"arrays/{index}"


class Watchful(Arrays):
    """Fails where reading would come after jax has started a backend."""

    def __getitem__(self, index):
        bridge = sys.modules.get("jax._src.xla_bridge")
        assert bridge is None or not bridge._backends, "a jax backend runs in a worker"
        assert "tensorflow" not in sys.modules
        return super().__getitem__(index)
