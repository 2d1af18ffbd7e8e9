"""vitjax features: embeddings of a folder of images, pictures of what they hold, a page to look at.

Writes into --out: embeddings.npz and embeddings.parquet (name, class, embedding of each image),
PNG pictures, and index.html, which holds them all.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from absl import logging

from vitjax.evaluators.features import Frozen, Inside, Sample
from vitjax.train import reopen
from vitjax.verbs import arguments, gallery

SPLIT = "train"  # the images stand there; there is no other


class Seen(NamedTuple):
    """What one encoder makes of the images. weights: attention of the last block on the sample,
    [M, H, N, N]; None where the encoder has none. prefix: tokens before the patches."""

    name: str
    frozen: Frozen
    sample: Sample
    weights: np.ndarray | None
    prefix: int


def run(argv: list[str]) -> None:
    summary, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("vitjax features", description=summary, epilog=more)
    arguments.add_to(parser)
    parser.add_argument("--images", help="a folder or archive of images, in class folders or not")
    parser.add_argument("--part", default="all", help="of split/class/image, the split to take")
    parser.add_argument("--out", required=True, help="a folder for what is made")
    parser.add_argument("--pictures", type=int, default=8, help="images to look at closely")
    parser.add_argument(
        "--query", type=patch, help="ROW,COLUMN of the patch whose attention is drawn: the middle"
    )
    parser.add_argument(
        "--against", action="append", default=[], help="another run, seen side by side"
    )
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax's word on reading without writing
    if (args.images is None) == (args.data is None):
        raise ValueError("expected one of --images and --data: what to look at")
    if args.pictures < 2:
        raise ValueError(f"--pictures={args.pictures}: expected at least 2")

    runs = [(args.checkpoint or args.config, arguments.settings_of(args), args.checkpoint)]
    runs += [(path, reopen.settings_of(path), path) for path in args.against]
    if len({each[0] for each in runs}) < len(runs):
        raise ValueError("--against names a run twice, or the run itself: give others")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    opened = [
        reopen.open_run(settings | looking(args, runs[0][1]), checkpoint)
        for _, settings, checkpoint in runs
    ]
    split = opened[0].rounds.splits[SPLIT]
    if len(split) < 2:
        raise ValueError(f"{len(split)} image in {split.info.name}: expected at least 2")
    names = [Path(name).name for name, _, _ in runs]
    if len(set(names)) < len(names):
        names = [name for name, _, _ in runs]
    seen = [look(each, name, args.pictures) for each, name in zip(opened, names, strict=True)]
    frozen = seen[0].frozen
    if jax.process_index() == 0:
        if left_out := len(split) - len(frozen.label):
            print(f"{left_out} of {len(split)} images could not be read", file=sys.stderr)
        keys = [split.key(row) for row in frozen.rows]
        write_embeddings(frozen, keys, split.info.names, out)

        def crops(rows):
            with jax.set_mesh(opened[0].mesh):
                return opened[0].rounds.crops(SPLIT, rows)

        print(gallery.make(seen, keys, split.info.names, crops, out, args.query))


def patch(text: str) -> tuple[int, int]:
    """The type of --query."""
    row, column = text.split(",")
    return int(row), int(column)


def looking(args: argparse.Namespace, settings: dict) -> dict:
    """The sections of a config that say what to look at; data, if not --images, as `settings`."""
    data = settings["data"]
    if args.images is not None:
        data = {"name": "folder", "path": args.images, "train": args.part}
    return {
        "data": data | {"minival": 0, "validation": None, "test": None},
        "evaluators": {},
        "evaluate": {"sample_examples": args.pictures},
    }


def look(opened: reopen.Opened, name: str, pictures: int) -> Seen:
    """Encode all images, and some, evenly spread over those that can be read, closely."""
    state, encoder = opened.state, opened.experiment.encoder
    with jax.set_mesh(opened.mesh):
        frozen = opened.rounds.features(state, SPLIT)
        places = frozen.rows[gallery.evenly(len(frozen.rows), pictures)]
        sample = opened.rounds.sample(state, SPLIT, places)
        weights = sample.measure(last_attention, sample.images) if encoder.attends else None
    return Seen(f"{name} ({encoder.name})", frozen, sample, weights, encoder.prefix)


def last_attention(inside: Inside, images) -> jax.Array:
    """Weights of the last block, [n, heads, N, N]."""
    name, _ = inside.attends[-1]
    return inside.attention(images, [name])[name]


def write_embeddings(frozen: Frozen, names: list[str], classes, out: Path) -> None:
    """One row per image that could be read, in the order of the folder."""
    np.savez(
        out / "embeddings.npz",
        name=np.asarray(names),
        label=frozen.label,
        classes=np.asarray(classes),
        embedding=frozen.pooled,
    )
    width = frozen.pooled.shape[1]
    embedding = pa.FixedSizeListArray.from_arrays(frozen.pooled.reshape(-1), width)
    table = pa.table(
        {
            "name": names,
            "class": [classes[label] for label in frozen.label],
            "embedding": embedding,
        }
    )
    parquet.write_table(table, out / "embeddings.parquet")
