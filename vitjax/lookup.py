"""Tables by name: a name that is not there gets one clear line, the same in every room."""

import difflib
from collections.abc import Iterable, Mapping


def lookup(table: Mapping, name, key: str):
    """table[name]. Raises ValueError with the config key, the nearest name and all valid ones."""
    if name in table:
        return table[name]
    raise ValueError(f"{key}={name!r} is unknown; {nearest(name, table)}")


def nearest(name, valid: Iterable) -> str:
    """The end of a message about an unknown name: the nearest valid one, and all of them."""
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}valid: {', '.join(valid) or 'none'}"
