"""What becomes of unreadable images: named once, counted, and too many of them end the run."""

from absl import logging


class Unreadable:
    """The unreadable examples of a split that this process met. indices: those known already."""

    def __init__(self, split, bad_share, indices=()):
        self.indices = set(indices)
        self._split = split
        self._bad_share = bad_share

    def add(self, indices, examples):
        """Takes note of an array of indices. ValueError when they are too many of `examples`."""
        for index in sorted(set(indices.tolist()) - self.indices):
            logging.warning("unreadable image left out: %s", self._split.key(index))
            self.indices.add(index)
        bad = len(self.indices)
        if bad > allowed(examples, self._bad_share) or bad == len(self._split):
            named = ", ".join(self._split.key(index) for index in sorted(self.indices)[:5])
            raise ValueError(
                f"{bad} of {examples} examples of {self._split.info.name} are unreadable, more "
                f"than input.bad_share={self._bad_share} allows: "
                f"{named}{', ...' if bad > 5 else ''}"
            )


def allowed(examples, bad_share):
    """How many of the examples may be unreadable: the share, and always one unless it is 0."""
    return max(1, bad_share * examples) if bad_share else 0
