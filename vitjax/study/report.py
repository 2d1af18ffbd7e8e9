"""The report of a study: one page that needs nothing else; its figures as PNG, tables as CSV."""

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from vitjax.pictures.page import Picture, Section, Table, page
from vitjax.study import analysis, curves, figures, results, tables, words
from vitjax.study import budget as budget_lib
from vitjax.study.analysis import Measure, View
from vitjax.study.results import Study

METHOD = (
    "Subsets are class-balanced and nest: a smaller one lies inside every larger one of its seed. "
    "Runs of one seed share subset, order and augmentation over all encoders, so differences are "
    "paired. Every encoder had the same augmentation and as many learning rates; the rate was "
    "chosen on held-out train data, which no subset holds, and the test split was seen once.",
    "Bands over seeds are Student's t-intervals. Fits minimise the summed Huber loss of log error "
    "over its deviation from 27 starts; their intervals are of a bootstrap over seeds and "
    "residuals. A crossing is observed where the interval of the ratio of errors lies on one side "
    "of 1 at one size and on the other at a larger one; nothing is extrapolated.",
)


def write(workdir: Path, out: Path, replicates: int = curves.REPLICATES) -> Path:
    """Returns the page. Raises ValueError where a folder is no study's, or has no result yet."""
    study = results.read_study(workdir)
    if not study.results:
        why = next(iter(study.failed.values()), "vitjax sweep has not finished a cell")
        raise ValueError(f"{workdir} has no result to report: {why}")
    out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):  # thousands of 3 x 3 systems: threads would only wait for each other
        views = analysis.analyse(study, replicates)
    sentences = words.summary(study, views)
    sections = [Section("In plain words", sentences)]
    for view in views:
        named = f" ({view.objective}, {view.budget})" if len(views) > 1 else ""
        sections += _view(study, view, named, out)
    sections.append(_ran(study))
    tables.write(study, views, sentences, out)
    file = out / "index.html"
    done = f"{len(study.results)} of {len(study.plan.grid.cells)} cells"
    title = "Data scale against inductive bias"
    file.write_text(page(title, sections, f"{Path(study.plan.source).name}, {done}."))
    return file


def _view(study: Study, view: View, named: str, out: Path) -> list[Section]:
    sections, prefix = [], f"{view.objective}_{view.budget}_"
    for measure in view.measures:
        key = measure.number.partition("/")[0]
        file = out / f"{prefix}{key}.png"
        figures.draw_measure(measure, file)
        picture = Picture(
            file,
            f"{measure.label} of each encoder against the number of training images, and its error "
            "on logarithmic axes with fitted curves",
            f"Left: mean over seeds with its {words.INTERVAL}. Right: the error of every seed, and "
            "the fitted curve over the sizes that were run, no further.",
        )
        sections.append(
            Section(
                f"Against data: {measure.label}{named}",
                pictures=[picture],
                tables=[_points(measure), *_fits(measure)],
            )
        )
    primary = view.measures[0] if view.measures else None
    if primary is not None and primary.ordered:
        sections.append(_pairs(view, primary, named, prefix, out))
    if primary is not None:
        sections.append(_cost(study, view, primary, named, prefix, out))
    if view.bias:
        sections.append(_bias(view, named, prefix, out))
    return sections


def _points(measure: Measure) -> Table:
    header = ["training images", *(words.count(D) for D in measure.series[0].images)]
    rows = []
    for series in measure.series:
        mean, low, _ = curves.mean_interval(100 * (1 - series.error))
        cells = [
            "–" if np.isnan(m) else f"{m:.1f}" if np.isnan(end) else f"{m:.1f} ± {m - end:.1f}"
            for m, end in zip(mean, low, strict=True)
        ]
        rows.append([series.name, *cells])
    return Table(
        f"{measure.label} in %, mean over seeds and half its {words.INTERVAL}", header, rows
    )


def _fits(measure: Measure) -> list[Table]:
    rows = []
    for name, fitted in measure.fits.items():
        if fitted is None:
            continue
        cells = [name, fitted.form]
        for key, factor, digits in (("a", 100, 1), ("b", 1, 2), ("floor", 100, 1)):
            low, high = (factor * v for v in curves.quantiles(getattr(fitted.draws, key)))
            value = factor * float(getattr(fitted.curve, key))
            cells.append(f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        held = [fitted.held_out.get(form) for form in ("floor", "power")]
        cells += ["–" if h is None else f"{h:.3f}" for h in held]
        cells += [f"{fitted.rms:.3f}", " ".join(f"{slope:.2f}" for slope in fitted.slopes)]
        rows.append(cells)
    if not rows:
        return []
    middle = next(f for f in measure.fits.values() if f is not None).curve.middle
    header = ["encoder", "form", "a, %", "b", "floor, %"]
    header += ["held out, floor", "held out, power", "rms, power", "local slopes"]
    caption = (
        f"error = floor + a (D / {middle:.0f})^-b, with {words.INTERVAL}s; rms of log error at the "
        "largest sizes, held out, for both forms, and over all sizes for the power law; the slopes "
        "between neighbouring sizes"
    )
    return [Table(caption, header, rows)]


def _pairs(view: View, measure: Measure, named: str, prefix: str, out: Path) -> Section:
    file = out / f"{prefix}pairs.png"
    figures.draw_pairs(measure, file)
    only = len(measure.ordered) > figures.MOST_PAIRS
    picture = Picture(
        file,
        "The gap in points and the ratio of errors of each pair against training images",
        f"{measure.label}; bars are {words.INTERVAL}s, of paired differences. The two can tell "
        "opposite stories." + (" Pairs with the first encoder only." if only else ""),
    )
    crossings = Table(
        "Where the lead changes, by each measure",
        ["pair", *(each.label for each in view.measures)],
        [
            [
                f"{p.first}, {p.second}",
                *(words.verdict(m.pairs[p.first, p.second]) for m in view.measures),
            ]
            for p in measure.ordered
        ],
    )
    rows = [
        [
            f"{pair.first}, {pair.second}",
            words.count(row.images),
            words.percent(row.gap),
            words.ratio(row.ratio),
            words.times(row),
        ]
        for pair in measure.ordered
        for row in pair.rows
    ]
    header = ["pair: first, second", "images", "gap, points", "ratio of errors", "data multiplier"]
    caption = (
        f"{measure.label}. Gap: first minus second. Ratio: error of second over that of first. "
        "Multiplier: how many times the images second needs to be as good as first; > and <: "
        "beyond the sizes that were run"
    )
    return Section(
        f"Who is ahead, and by how much{named}",
        pictures=[picture],
        tables=[crossings, Table(caption, header, rows)],
    )


def _cost(study: Study, view: View, measure: Measure, named, prefix, out) -> Section:
    file = out / f"{prefix}cost.png"
    figures.draw_cost(view, measure, file)
    picture = Picture(
        file,
        f"{measure.label} against training FLOPs and against parameters; encoders of one data size "
        "are joined",
        "A line joins the encoders at one number of training images, which stands at its end.",
    )
    rows = []
    for name in view.encoders:
        cost = view.cost[name]
        steps = cost["steps"][np.isfinite(cost["steps"])]
        chosen = ", ".join(f"{lr:g}: {n}" for lr, n in view.rates[name].items())
        train = curves.nanmean(view.train[name])
        rows.append(
            [
                name,
                cost["encoder"],
                f"{cost['parameters']:,}",
                f"{cost['flops_per_image'] / 1e6:.3g}",
                words.count(steps[0]) + ("" if steps[0] == steps[-1] else f" to {steps[-1]:,.0f}"),
                f"{np.nanmax(cost['flops']):.3g}",
                chosen,
                " ".join("–" if np.isnan(t) else f"{100 * t:.0f}" for t in train),
            ]
        )
    header = ["label", "encoder", "parameters", "MFLOPs per image", "steps", "FLOPs of a run"]
    header += ["rates chosen", "train accuracy by size, %"]
    budget = budget_lib.say(study.plan.grid.budgets[view.budget])
    caption = (
        "What each run cost. FLOPs are analytic, forward and backward; train accuracy is that of "
        "the last steps, on augmented images"
    )
    return Section(
        f"Cost{named}", [f"The budget: {budget}."], [picture], [Table(caption, header, rows)]
    )


def _bias(view: View, named: str, prefix: str, out: Path) -> Section:
    """A picture for each evaluator: one of them all would not fit on a printed page."""
    evaluators: dict[str, dict] = {}
    for number, values in view.bias.items():
        evaluator, _, measure = number.partition("/")
        evaluators.setdefault(evaluator, {})[measure] = values
    pictures = []
    for evaluator, measures in evaluators.items():
        file = out / f"{prefix}{evaluator}.png"
        figures.draw_bias(view.images, measures, file)
        alt = f"{evaluator} against training images: {', '.join(measures)}"
        pictures.append(Picture(file, alt, f"{evaluator}: mean over seeds, {words.INTERVAL}."))
    return Section(f"Measures of bias against data{named}", pictures=pictures)


def _ran(study: Study) -> Section:
    """How it was made: method, versions, what is not there."""
    environments = {str(r["environment"]): r["environment"] for r in study.results}
    rows = []
    for each in environments.values():
        versions = ", ".join(f"{name} {number}" for name, number in each["versions"].items())
        hardware = each["hardware"]
        what = f"{hardware['devices']} x {hardware['device']}, {hardware['cpu_cores']} CPU cores"
        row = [what, versions, each["commit"][:12] or "–"]
        rows += [row] if row not in rows else []
    found = [Table("Where the cells ran", ["hardware", "versions", "commit"], rows)]
    if study.failed:
        failed = [[name, error] for name, error in study.failed.items()]
        found.append(Table("Cells that failed", ["cell", "last error"], failed))
    lines = list(METHOD)
    if study.missing:
        lines.append(f"{len(study.missing)} cells have not been run: the curves lack them.")
    hours = sum(r["seconds"] for r in study.results) / 3600
    lines.append(f"The cells took {hours:.2f} hours, added up.")
    return Section("How it was made", lines, tables=found)
