"""Files that are there whole or not at all, whatever ends the process that writes them."""

import os
from pathlib import Path


def write_whole(file: str | Path, text: str) -> None:
    """Write beside it and rename. Several processes may write the same file: one of them wins."""
    file = Path(file)
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    draft.write_text(text)
    draft.rename(file)
