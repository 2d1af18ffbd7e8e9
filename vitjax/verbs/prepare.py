"""vitjax prepare: any images as ArrayRecord shards with a manifest.

SRC is a folder of images (split/class/image or class/image) or an archive of one; tfds:NAME; a
folder or pattern of WebDataset .tar files (without labels, each tar is a class: ImageNet-21k) or of
.parquet files; or digits. A run that was stopped goes on with the same command. Train with
data=dict(name="array_record", path=OUT).
"""

import argparse
import os
import pathlib
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitjax.data import gather, prepare, shards, writing


def run(argv: list[str]) -> None:
    summary, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("vitjax prepare", description=summary, epilog=more)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("--out", help="the folder to write")
    parser.add_argument("--split", default="train", help="of files whose names do not say it")
    parser.add_argument("--shorter", type=int, help="shrink the shorter side to so many pixels")
    parser.add_argument("--quality", type=int, default=90, help="of JPEGs that are written anew")
    parser.add_argument("--raw", action="store_true", help="store pixels: for tiny images")
    parser.add_argument("--upright", action="store_true", help="turn images by their EXIF tag")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--bad_share", type=float, default=0.01, help="of unreadable images")
    parser.add_argument("--verify", action="store_true", help="compare checksums of OUT, then end")
    parser.add_argument("--data_dir", default=None, help="of the digits; default: TFDS's own")
    parser.add_argument("--split_by", choices=["random", "writers"], default="random")
    args = parser.parse_args(argv)
    if args.source == "digits":
        print(prepare.prepare_digits(args.data_dir, args.split_by))
        return
    if args.out is None:
        raise ValueError("vitjax prepare needs --out, the folder to write")
    if not args.verify:
        manifest = write(args)
        for split, known in manifest["splits"].items():
            print(
                f"{split}: {known['examples']} images of {len(manifest['classes'])} classes in "
                f"{len(known['shards'])} shards; {known['skipped']} unreadable left out"
            )
            for name in known["skipped_names"]:
                print(f"  left out {name}", file=sys.stderr)
    elif damaged := shards.verify(args.out):
        raise ValueError(f"{len(damaged)} shards of {args.out} are damaged: {', '.join(damaged)}")


def write(args: argparse.Namespace) -> dict:
    """All of a source, with a bar on the terminal. Returns the manifest."""
    form = writing.Form(args.shorter, args.quality, args.raw, args.upright)
    gathered = gather.gather(args.source, args.split)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("shards, {task.fields[images]} images, ends in"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(pathlib.Path(args.out).name, total=len(gathered.jobs), images=0)

        def progress(done, jobs, examples):
            bar.update(task, completed=done, total=jobs, images=examples)

        return writing.write(
            gathered,
            args.out,
            form,
            workers=args.workers,
            bad_share=args.bad_share,
            progress=progress,
        )
