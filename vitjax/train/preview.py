"""What the model would see: the first batch of a run, its images and the views made of them."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from vitjax import config as config_lib
from vitjax.ops.colour import IMAGENET_MEAN, IMAGENET_STD
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup, start
from vitjax.train.state import stream

EXAMPLES = 8  # rows of the sheet
CELL = 1.5  # inches


def preview(config, workdir) -> Path:
    """Writes figures/views.png into the working directory: nothing is trained.

    One row per example: the image as it was decoded, then its views; above them the labels, with
    their shares where examples are mixed. Raises ValueError as a run would.
    """
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    with config_lib.one_line():
        recipe = recipe_lib.read(settings)
        start.check(recipe)
        mesh = config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh", devices=jax.devices())
        splits = start.open_splits(recipe)
        mesh_lib.check_batch(recipe.batch_size, mesh, recipe.accumulate)
        with jax.set_mesh(mesh), start.open_batches(recipe, splits["train"], None) as batches:
            batch = next(batches)
            make = jax.jit(setup.make_views(recipe, "float32")["train"])
            views = make(mesh_lib.put_batch(batch, mesh), stream(recipe.seed, "views"))
            views = {name: local(array) for name, array in views.items()}
    colours = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} | dict(recipe.views)
    mean, std = np.asarray(colours["mean"]), np.asarray(colours["std"])
    file = Path(workdir) / "figures" / "views.png"
    if jax.process_index() == 0:
        names = splits["train"].info.names
        figure = draw(batch, pictures(views, mean, std), soft_labels(batch, views, names))
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)
    return file


def local(array: jax.Array) -> np.ndarray:
    """The first EXAMPLES rows of a view; this process's."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    rows, parts = 0, []
    for shard in shards:
        if rows < EXAMPLES and shard.replica_id == 0:
            parts.append(np.asarray(shard.data[:EXAMPLES].astype("float32")))
            rows += len(parts[-1])
    return np.concatenate(parts)[:EXAMPLES]


def pictures(views: dict, mean: np.ndarray, std: np.ndarray) -> list[list[np.ndarray]]:
    """For each example its views in 0..1: of every array of images, [B, S, S, 3] or
    [B, V, S, S, 3]."""
    images = [array for array in views.values() if array.ndim in (4, 5) and array.shape[-1] == 3]
    images = [array[:, None] if array.ndim == 4 else array for array in images]
    rows = [[view for array in images for view in array[row]] for row in range(len(images[0]))]
    return [[np.clip(view * std + mean, 0, 1) for view in row] for row in rows]


def soft_labels(batch: dict, views: dict, names) -> list[str]:
    """The label of each example; where its target is soft, its classes and their shares."""
    rows = min(EXAMPLES, len(batch["label"]))
    soft = views["label"] if "label" in views and views["label"].ndim == 2 else None
    if soft is None or not soft.shape[1]:
        return [names[label] if label >= 0 else "" for label in batch["label"][:rows]]
    texts = []
    for row in soft[:rows]:
        top = [place for place in np.argsort(-row, kind="stable")[:2] if row[place] > 0]
        shares = [f" {100 * row[place]:.0f}%" if row[place] < 0.9995 else "" for place in top]
        texts.append(
            "\n".join(names[place] + share for place, share in zip(top, shares, strict=True))
        )
    return texts


def draw(batch: dict, rows: list[list[np.ndarray]], labels: list[str]) -> Figure:
    """A figure of the decoded images at the left, and their views."""
    columns = 1 + max(map(len, rows))
    figure = Figure(figsize=(CELL * columns, 1.25 * CELL * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, (axes, views, label) in enumerate(zip(grid, rows, labels, strict=True)):
        height, width = batch["size"][place]
        axes[0].imshow(batch["image"][place, :height, :width], interpolation="nearest")
        axes[0].set_title(f"{batch['index'][place]}: {height} × {width}", fontsize=7)
        for cell, view in zip(axes[1:], views, strict=False):
            cell.imshow(view, interpolation="nearest")
        axes[1].set_title(label.replace("$", r"\$"), fontsize=7)
    return figure
