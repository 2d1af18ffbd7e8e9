"""vitjax convert: weights of other projects become a run's folder, and runs become their files.

Without --to, --out is a run's folder, for `vitjax evaluate`, `vitjax features` and init_from. With
it, --out is a folder that the other project loads: model.safetensors with its JSON files
(huggingface, timm, torchvision), model.npz (big_vision) or model.stablehlo. --to training is a
run's whole training state but for the optimizer: student, teacher, heads, step; converted again
without --to it is a run's folder to go on from with init_from.
"""

import argparse
import sys

import jax
from absl import logging

from vitjax import config as config_lib
from vitjax import interop
from vitjax.interop import files, runs, stablehlo, training
from vitjax.interop.model import Model
from vitjax.train import workdir
from vitjax.verbs import arguments

SHOWN = 6  # names of what was left behind, before the line says how many more


def run(argv: list[str]) -> None:
    summary, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("vitjax convert", description=summary, epilog=more)
    parser.add_argument(
        "weights", help=".safetensors, .npz, .pth, a Hugging Face folder, or a run's folder"
    )
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument(
        "--to", choices=[*interop.PROJECTS, "stablehlo", "training"], help="whose files"
    )
    parser.add_argument("--layout", help="whose names the weights have, where more than one fits")
    parser.add_argument("--image_size", type=int, help="pixels per side of the images to come")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="encoder.KEY=VALUE",
        help="what a file cannot say of the encoder: encoder.heads=6",
    )
    args = parser.parse_args(argv)
    files.require_new(args.out)
    if args.to == "training" or (args.to is None and training.is_state(args.weights)):
        move = training.load if args.to is None else training.save
        with config_lib.one_line():
            print(f"{move(args.weights, args.out)} -> {args.out}", file=sys.stderr)
        return
    if args.to is None and runs.is_run(args.weights):
        raise ValueError(f"{args.weights} is a run of ours already: say --to which project")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR if runs.is_run(args.weights) else verbosity)
    with config_lib.one_line():
        loaded = interop.open_weights(args.weights, args.layout, **encoder_settings(args.set))
        model, variables = loaded.model, loaded.variables
        if args.image_size is not None:
            model, variables = runs.resized(model, variables, args.image_size)
    logging.set_verbosity(verbosity)
    with config_lib.one_line():
        write(model, variables, args.to, args.out)
    print(f"{describe(loaded, model, variables)} -> {args.out}", file=sys.stderr)


def write(model: Model, variables: dict, project: str | None, out: str) -> None:
    """A run's folder, or the files of a project."""
    if project is None:
        with files.whole(out) as folder:
            runs.write(model, variables, folder, workdir.environment())
    elif project == "stablehlo":
        with files.whole(out) as folder:
            stablehlo.write(model, variables, folder)
    else:
        interop.save(model.spec, variables, project, out)


def encoder_settings(texts: list[str]) -> dict:
    """ "encoder.heads=6" -> {"heads": 6}."""
    settings = {"encoder": {}}
    for text in texts:
        if not text.startswith("encoder."):
            raise ValueError(f"--set {text!r}: expected encoder.KEY=VALUE")
        arguments.assign(settings, text)
    return settings["encoder"]


def describe(loaded: interop.Loaded, model: Model, variables: dict) -> str:
    """What was read and is written: layout, encoder, parameters (statistics are none), size, head,
    what was left behind."""
    weights = (variables["encoder"], variables["head"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(weights))
    size, before = model.spec.image_size, loaded.model.spec.image_size
    classes, looks = model.spec.classes, model.spec.preprocessing
    parts = [
        f"{loaded.layout} {model.encoder.name}",
        f"{parameters:,} parameters",
        f"{size} px" if size == before else f"{size} px (made for {before} px)",
        f"head of {classes} classes" if classes else "no head",
        f"images less {looks.mean} over {looks.std}",
    ]
    if loaded.past:
        names = ", ".join(loaded.past[:SHOWN])
        more = f" and {len(loaded.past) - SHOWN} more" if len(loaded.past) > SHOWN else ""
        parts.append(f"left behind {names}{more}")
    return ", ".join(parts)
