"""The figures of a run: what was lost, what was learned, and on which images it is still wrong."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vitjax.train.metrics import curve

# Readable without colour: each line has its own dash and marker too.
STYLES = (
    ("#1b6ca8", "-", "o"),
    ("#d1495b", "--", "s"),
    ("#3d8168", "-.", "^"),
    ("#7a5195", ":", "D"),
)


def draw_curves(history: list[dict], folder: Path) -> None:
    """Write loss.png, learning_rate.png and, where something was evaluated, accuracy.png.

    accuracy.png: one line per evaluator on the validation split (kNN at its first k), and a hollow
    mark at the end for the test split.
    """
    folder.mkdir(exist_ok=True)
    _lines(folder / "loss.png", "loss", {"train": curve(history, "train/loss")})
    rate = {"learning rate": curve(history, "train/learning_rate")}
    _lines(folder / "learning_rate.png", "learning rate", rate)
    lines, marks = {}, {}
    for name in dict.fromkeys(name for row in history for name in row):
        parts = name.split("/")
        if parts[0] == "eval" and len(parts) == 4 and parts[3].startswith("top1"):
            split, evaluator = parts[1], parts[2]
            (marks if split == "test" else lines).setdefault(evaluator, curve(history, name))
    if lines:
        _lines(folder / "accuracy.png", "top-1 accuracy", lines, marks)


def _lines(file: Path, label: str, curves: dict, marks: dict | None = None) -> None:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for i, (name, (steps, values)) in enumerate(curves.items()):
        colour, dash, marker = STYLES[i % len(STYLES)]
        few = marker if len(steps) <= 40 else ""
        axes.plot(steps, values, color=colour, linestyle=dash, marker=few, label=name)
        if marks and name in marks:
            axes.plot(
                *marks[name],
                color=colour,
                linestyle="",
                marker=marker,
                markerfacecolor="none",
                markersize=12,
                label=f"{name}, test",
            )
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)


def draw_predictions(
    images: np.ndarray, labels: np.ndarray, logits: np.ndarray, names, file: Path, columns: int = 8
) -> None:
    """A sheet of images, each with its predicted class and probability; wrong ones also name the
    true class.

    images: uint8 [N, S, S, 3]. labels: int [N]. logits: [N, C]. names: C class names.
    """
    file.parent.mkdir(exist_ok=True)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = shifted / shifted.sum(-1, keepdims=True)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.35 * columns, 1.7 * rows), layout="constrained")
    for axes in np.ravel(figure.subplots(rows, columns)):
        axes.set_axis_off()
    for axes, image, label, probability in zip(
        figure.axes, images, labels, probabilities, strict=False
    ):
        guess = int(probability.argmax())
        right = guess == label
        axes.imshow(image, interpolation="nearest")
        title = f"{names[guess]} {100 * probability[guess]:.0f}%"
        title = title if right else f"{title}\nnot {names[label]}"
        axes.set_title(
            title.replace("$", r"\$"),  # matplotlib would take it for mathematics
            fontsize=8,
            color="black" if right else "#b3001b",
            fontweight="normal" if right else "bold",
        )
    figure.savefig(file, dpi=120)
