"""The figures of a report: readable without colour, by marker and dash alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vitjax.study import curves
from vitjax.study.analysis import Measure, View

# Colours that the colour-blind tell apart (Okabe and Ito), each with its own dash and marker.
STYLES = (
    ("#0072b2", "-", "o"),
    ("#d55e00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", ":", "D"),
    ("#444444", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#e69f00", (0, (8, 3)), "P"),
    ("#56b4e9", (0, (1, 1)), "X"),
    ("#8a6d00", (0, (3, 1, 1, 1)), "*"),
)
MOST_PAIRS = 6  # lines in one figure; beyond, only pairs with the first encoder are drawn
DPI = 120


def style(place: int) -> dict:
    colour, dash, marker = STYLES[place % len(STYLES)]
    return dict(color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.6)


def draw_measure(measure: Measure, file: Path) -> None:
    """Left: the number against data, with its band over seeds. Right: its error on logarithmic
    axes, every seed a point, with the fitted curve."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, series in enumerate(measure.series):
        mine = style(place)
        band(left, series.images, 100 * (1 - series.error), series.name, mine)
        points = dict(linestyle="", marker=mine["marker"], color=mine["color"], markersize=4)
        seeds = np.broadcast_to(series.images[:, None], series.error.shape)
        right.plot(
            *(seeds.ravel(), 100 * np.maximum(series.error, series.least).ravel()),
            **points,
            alpha=0.6,
            label=series.name,
        )
        fitted = measure.fits[series.name]
        if fitted is not None:
            there = np.geomspace(series.images[0], series.images[-1], 60)  # and no further
            right.plot(
                there,
                100 * fitted.curve.at(there),
                color=mine["color"],
                linestyle=mine["linestyle"],
                linewidth=1.6,
            )
    label_data(left, f"{measure.label}, %")
    label_data(right, f"error, {measure.label}, %")
    right.set_yscale("log")
    plain(right.yaxis)
    left.legend(fontsize="small")
    save(figure, file)


def draw_pairs(measure: Measure, file: Path) -> None:
    """Gap in points and ratio of errors of the pairs against data; first minus second."""
    found = measure.ordered
    if len(found) > MOST_PAIRS:
        found = [pair for pair in found if pair.first == measure.series[0].name]
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, pair in enumerate(found):
        images = np.array([row.images for row in pair.rows])
        # Side by side, so that intervals do not hide each other.
        images = images * 1.03 ** (place - (len(found) - 1) / 2)
        for axes, values in (
            (left, [row.gap for row in pair.rows]),
            (right, [row.ratio for row in pair.rows]),
        ):
            middle, low, high = np.array(values).reshape(-1, 3).T
            ends = np.nan_to_num(np.array([middle - low, high - middle]))
            axes.errorbar(
                images,
                middle,
                yerr=ends,
                capsize=3,
                label=f"{pair.first}, {pair.second}",
                **style(place),
            )
    left.axhline(0, color="black", linewidth=0.8)
    right.axhline(1, color="black", linewidth=0.8)
    label_data(left, "first minus second, points")
    label_data(right, "error of second / error of first")
    right.set_yscale("log")
    plain(right.yaxis)
    left.legend(fontsize="small")
    save(figure, file)


def draw_cost(view: View, measure: Measure, file: Path) -> None:
    """The number against training FLOPs and against parameters: encoders of one size of the data
    are joined by a line, with that size at its end."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    kinds = ("flops", "floating point operations of training"), ("parameters", "parameters")
    for axes, (key, label) in zip(figure.subplots(1, 2), kinds, strict=True):
        for row, images in enumerate(view.images):
            points = []
            for place, series in enumerate(measure.series):
                value = 100 * (1 - curves.nanmean(series.error[row]))
                cost = np.broadcast_to(view.cost[series.name][key], view.images.shape)[row]
                points.append((cost, value))
                named = {"label": series.name} if row == 0 else {}
                mine = style(place) | {"linestyle": ""}
                axes.plot(cost, value, zorder=3, **named, **mine)
            points = sorted(point for point in points if np.isfinite(point).all())
            axes.plot(*zip(*points, strict=True), color="#999999", linewidth=0.8)
            axes.annotate(
                f"{images:,.0f}",
                points[-1],
                xytext=(6, 0),
                textcoords="offset points",
                fontsize="x-small",
                va="center",
            )
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.set_ylabel(f"{measure.label}, %")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    save(figure, file)


def draw_bias(images: np.ndarray, measures: Mapping[str, Mapping], file: Path) -> None:
    """Measures of bias against data, a field for each. measures: title -> encoder -> values."""
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns))
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    for axes, (title, values) in zip(grid, measures.items(), strict=False):
        lines(axes, images, values)
        label_data(axes, "")
        axes.set_title(title, fontsize="small")
    found = [axes.get_legend_handles_labels() for axes in grid]
    named = {}
    for handles, names in found:
        named |= zip(names, handles, strict=True)
    grid[0].legend(named.values(), named.keys(), fontsize="x-small")
    save(figure, file)


def lines(axes: Axes, images: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Of the encoders that have the measure: no ConvNet has a distance of attention."""
    for place, (name, table) in enumerate(values.items()):
        if np.isfinite(table).any():
            band(axes, images, table, name, style(place))


def band(axes: Axes, images, values, name: str, mine: dict) -> None:
    """The mean over seeds, and its t-interval where there are two or more."""
    mean, low, high = curves.mean_interval(values)
    axes.plot(images, mean, label=name, **mine)
    axes.fill_between(images, low, high, color=mine["color"], alpha=0.18, linewidth=0)


def label_data(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    plain(axes.xaxis)
    axes.set_xlabel("training images")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def plain(axis) -> None:
    """1, 2, 5, 10, 20, ... instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI)
