"""What a source says about itself."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Info:
    """A data set in words: its name, the names of its classes in label order, its licence, the
    names of its key points."""

    name: str
    names: tuple[str, ...]
    licence: str
    points: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.names)
