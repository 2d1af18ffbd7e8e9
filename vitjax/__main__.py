"""python -m vitjax VERB, which is also the console script `vitjax`. A verb is a row of VERBS."""

import contextlib
import sys

from vitjax.lookup import nearest


def train(argv: list[str]) -> None:
    """--config FILE[:ARGS] --workdir DIR [--preview] [--config.KEY=VALUE ...]: train, or go on"""
    from vitjax import main

    sys.argv = [f"{sys.argv[0]} train", *argv]
    main.cli()


def prepare(argv: list[str]) -> None:
    """SRC --out DIR [--shorter 256] [--raw]: images of any kind as ArrayRecord, or the digits"""
    from vitjax.verbs import prepare

    with one_line():
        prepare.run(argv)


def evaluate(argv: list[str]) -> None:
    """--checkpoint RUN [--data SET] [--evaluators knn,linear,...]: what frozen features know"""
    from vitjax.verbs import evaluate

    with one_line():
        evaluate.run(argv)


def features(argv: list[str]) -> None:
    """--checkpoint RUN --images DIR --out DIR: embeddings, pictures and a page"""
    from vitjax.verbs import features

    with one_line():
        features.run(argv)


def convert(argv: list[str]) -> None:
    """WEIGHTS --out DIR [--to PROJECT]: weights of other projects in, and ours out"""
    from vitjax.verbs import convert

    with one_line():
        convert.run(argv)


def plan(argv: list[str]) -> None:
    """--config FILE[:ARGS] --topology v5e:16x16[,...] [--batch auto]: does it fit that pod?"""
    from vitjax.verbs import plan

    with one_line():
        plan.run(argv)


def sweep(argv: list[str]) -> None:
    """--config FILE --workdir DIR [--jobs N] [--launcher slurm]: a study, cell by cell, or go on"""
    from vitjax.verbs import sweep

    with one_line():
        sweep.run(argv)


def report(argv: list[str]) -> None:
    """DIR: what a study found, as a page, PNG and CSV"""
    from vitjax.verbs import report

    with one_line():
        report.run(argv)


@contextlib.contextmanager
def one_line():
    """What the user can mend becomes one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


VERBS = {
    "train": train,
    "evaluate": evaluate,
    "features": features,
    "convert": convert,
    "prepare": prepare,
    "plan": plan,
    "sweep": sweep,
    "report": report,
}


def main() -> None:
    verb, argv = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print("vitjax VERB ...\n")
        for name, function in VERBS.items():
            print(f"  {name} {function.__doc__}")
        return
    if verb not in VERBS:
        sys.exit(f"error: vitjax has no verb {verb!r}; {nearest(verb, VERBS)}")
    VERBS[verb](argv)


if __name__ == "__main__":
    main()
