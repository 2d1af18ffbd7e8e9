"""vitjax report: what a study found, as one page with its figures and tables beside it."""

import argparse
from pathlib import Path

from vitjax.study import report


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="vitjax report", description=__doc__)
    parser.add_argument("workdir", help="folder of a study, of vitjax sweep")
    parser.add_argument("--out", help="another folder than WORKDIR/report")
    args = parser.parse_args(argv)
    out = Path(args.workdir) / "report" if args.out is None else Path(args.out)
    print(report.write(Path(args.workdir), out))
