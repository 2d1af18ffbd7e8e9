"""Several data sets as one."""

import numpy as np

from vitjax.data.info import Info


class Mixture:
    """Sources one after the other; classes of one name are one class.

    names: one per source, for keys and messages. weights: how often each is to be seen, in any
    unit.
    """

    annotations = ()  # those of one source are unknown to the next

    def __init__(self, names, sources, weights):
        self._names, self._sources = names, sources
        self.weights = tuple(float(weight) for weight in weights)
        self._starts = np.cumsum([0, *map(len, sources)])
        classes = dict.fromkeys(name for source in sources for name in source.info.names)
        numbers = {name: number for number, name in enumerate(classes)}
        self._numbers = [
            np.array([numbers[name] for name in source.info.names], np.int32) for source in sources
        ]
        self.info = Info(
            "+".join(names), tuple(classes), ", ".join(source.info.licence for source in sources)
        )
        seen = {
            name
            for source in sources
            for name in source.info.names
            if name not in set(source.lacking)
        }
        self.lacking = tuple(name for name in classes if name not in seen)

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, index):
        number, place = self._place(index)
        example = self._sources[number][place]
        label = int(self._numbers[number][example["label"]])
        return {"image": example["image"], "label": label}

    def key(self, index):
        number, place = self._place(index)
        return f"{self._names[number]}/{self._sources[number].key(place)}"

    @property
    def labels(self):
        """int32 [len(self)]."""
        pairs = zip(self._sources, self._numbers, strict=True)
        return np.concatenate([numbers[source.labels] for source, numbers in pairs])

    def members(self, indices=None):
        """For each source the places of its examples among `indices`, all by default."""
        ends = zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True)
        if indices is None:  # no array, however many there are
            return [range(start, stop) for start, stop in ends]
        return [np.flatnonzero((indices >= start) & (indices < stop)) for start, stop in ends]

    def _place(self, index):
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, int(index - self._starts[number])
