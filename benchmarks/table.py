"""What every benchmark here does with its rows: print them as a table, keep them as JSON."""

import json
import pathlib

from rich.console import Console
from rich.table import Table

from vitjax.train.workdir import environment

RESULTS = pathlib.Path(__file__).parent / "results"


def publish(name: str, title: str, rows: list[dict], out: str | None = None) -> None:
    """Print rows (equal keys); write them with versions and hardware to results/<name>.json."""
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key)
    for row in rows:
        table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=110).print(table)
    folder = pathlib.Path(out) if out else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": title, "rows": rows, **environment()}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
