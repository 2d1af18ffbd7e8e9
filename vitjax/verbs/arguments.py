"""What the verbs that open an encoder share: which one, on what data, with what changed."""

import argparse
import ast
import json
import os
from pathlib import Path

from vitjax import config as config_lib
from vitjax.train import reopen
from vitjax.whole import write_whole


def add_to(parser: argparse.ArgumentParser) -> None:
    """--checkpoint or --config, --encoder, --data, --set."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", help="a run's folder, or checkpoints/STEP in it")
    which.add_argument(
        "--config", help="FILE[:ARGS]: weights as a run of this config would begin with"
    )
    parser.add_argument("--encoder", help="with --config, another encoder: pixels:side=32,patch=4")
    parser.add_argument("--data", help="another data set: digits, or folder:path=DIR,minival=0.1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other config key"
    )


def settings_of(args: argparse.Namespace) -> dict:
    """The config that the arguments describe, as a plain dict. Raises ValueError of one line."""
    if args.encoder is not None and args.checkpoint is not None:
        raise ValueError(
            f"--encoder={args.encoder!r} with --checkpoint, which has one of its own: use --config"
        )
    if args.checkpoint is not None:
        # A mesh says nothing of an encoder, and this may be another machine.
        settings = reopen.settings_of(args.checkpoint) | {"mesh": {}}
    else:
        settings = config_lib.load(args.config)
    if args.encoder is not None:
        settings["encoder"] = section(args.encoder, "--encoder")
    if args.data is not None:
        settings["data"] = section(args.data, "--data")
    for text in args.set:
        assign(settings, text)
    return settings


def section(text: str, flag: str) -> dict:
    """ "name:key=value,..." -> {"name": name, key: value, ...}."""
    name, _, rest = text.partition(":")
    values = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{flag}={text!r}: {part!r} has no value, expected NAME:KEY=VALUE,...")
        values[key] = literal(value)
    return {"name": name} | values


def assign(settings: dict, text: str) -> None:
    """ "evaluators.linear.steps=100": set one leaf."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text!r}: expected KEY=VALUE")
    *parents, leaf = path.split(".")
    place = settings
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ValueError(f"--set {text!r}: config key {parent} is not a section")
    place[leaf] = literal(value)


def literal(text: str):
    """A Python value where the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def require_writable(path: str) -> None:
    """Before anything is computed: raise where --out could not be written. Makes its folder."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"--out={path!r} is a folder: give a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"--out={path!r}: {file.parent} cannot be written to")


def write_json(path: str, value) -> None:
    """Whole, or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
