"""Numbers and findings in words; a sentence is made only where its numbers bear it out."""

import math

import numpy as np

from vitjax.study import budget as budget_lib
from vitjax.study import fit
from vitjax.study.analysis import Measure, View
from vitjax.study.curves import LEVEL, nanmean
from vitjax.study.pairs import Pair, Row, Value
from vitjax.study.results import Study

INTERVAL = f"{100 * LEVEL:.0f}% interval"


def count(images: float) -> str:
    """1296.0 -> "1,296"."""
    return f"{round(images):,}"


def percent(value: Value) -> str:
    return _with_interval(*(f"{each:.1f}" for each in value), value)


def times(row: Row) -> str:
    """A data multiplier; what lies beyond the sizes is said as a bound."""
    ends = [_bound(each, row) for each in row.multiplier]
    return _with_interval(*ends, row.multiplier)


def ratio(value: Value) -> str:
    return _with_interval(*(f"{each:.2f}" for each in value), value)


def _bound(value: float, row: Row) -> str:
    if math.isnan(value):
        return "–"
    if value == math.inf:
        return f"> {row.most:.3g}"
    return f"< {row.least:.3g}" if value == 0 else f"{value:.3g}"


def _with_interval(middle, low, high, value: Value) -> str:
    if math.isnan(value.value):
        return "–"
    return middle if math.isnan(value.low) else f"{middle} ({low} to {high})"


def verdict(pair: Pair) -> str:
    """The crossing in a few words, for a table."""
    found = pair.verdict
    if found.kind == "undecided":
        return "no size tells them apart"
    if found.kind == "several":
        return "the lead changes more than once"
    if found.kind == "crossing":
        at, low, high = map(count, found.at)
        return f"{found.follower}, then {found.leader}, from {at} images ({low} to {high})"
    decided = [row.images for row in pair.rows if row.sign]
    sizes = f"at {count(decided[0])} images"
    if len(decided) > 1:
        sizes = f"from {count(decided[0])} to {count(decided[-1])} images"
    equal = "" if pair.rows[-1].sign else f", not told apart at {count(pair.rows[-1].images)}"
    return f"no crossing in range: {found.leader} ahead {sizes}{equal}"


def summary(study: Study, views: list[View]) -> list[str]:
    """A paragraph on what was run, then some for each view: its primary measure."""
    grid = study.plan.grid
    total = len(grid.cells)
    parts = [
        f"{len(grid.encoders)} encoders ({', '.join(grid.encoders)}), {len(grid.fractions)} sizes "
        f"of training data, {len(grid.seeds)} {'seed' if len(grid.seeds) == 1 else 'seeds'}; "
        f"{len(grid.rates(next(iter(grid.encoders))))} learning rates tried in each cell, the best "
        f"chosen on held-out train data and tested once. {len(study.results)} of {total} cells are "
        "finished" + (f", {len(study.failed)} failed." if study.failed else ".")
    ]
    if not views:
        return [*parts, "There is nothing to compare yet."]
    for view in views:
        parts += _view(study, view, len(views) > 1)
    return parts


def _view(study: Study, view: View, named: bool) -> list[str]:
    budget = budget_lib.say(study.plan.grid.budgets[view.budget])
    name = f"{view.objective}, {view.budget}: " if named else ""
    parts = [f"{name}Runs are compared at {budget}."]
    if not view.measures:
        return [*parts, "No accuracy, linear probe or kNN was evaluated."]
    measure = view.measures[0]
    parts.append(" ".join(standing(measure, place) for place in _ends(measure)))
    parts += [of_pair(measure, pair) for pair in measure.ordered]
    if len(view.measures) > 1:
        parts += [others(view)] if measure.ordered else []
    fits = [of_fit(name, fitted) for name, fitted in measure.fits.items() if fitted is not None]
    parts += [" ".join(fits)] if fits else []
    return [*parts, caveats(view, measure)]


def _ends(measure: Measure) -> list[int]:
    n = len(measure.series[0].images)
    return [0] if n == 1 else [0, n - 1]


def standing(measure: Measure, place: int) -> str:
    """Who is best at a size, and who cannot be told from the best."""
    images = measure.series[0].images[place]
    score = {name: 100 * mean for name, mean in _means(measure, place).items()}
    best = max(score, key=score.get)
    text = f"With {count(images)} images {best} has the highest {measure.label}, {score[best]:.1f}%"
    equal = [other for other in score if other != best and _sign(measure, best, other, images) == 0]
    if equal:
        text += f"; {' and '.join(equal)} cannot be told from it"
    last = min(score, key=score.get)
    if last != best:
        text += f"; {last} has the lowest, {score[last]:.1f}%"
    return text + "."


def _means(measure: Measure, place: int) -> dict[str, float]:
    """encoder -> mean over seeds of 1 - error at a size; only those that have one."""
    means = {s.name: 1 - nanmean(s.error[place]) for s in measure.series}
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}


def _sign(measure: Measure, first: str, second: str, images: float) -> int:
    rows = [row for row in measure.pairs[first, second].rows if row.images == images]
    return rows[0].sign if rows else 0


def of_pair(measure: Measure, pair: Pair) -> str:
    """What the sizes say of one pair; of sizes that were not run it says nothing."""
    found = pair.verdict
    if not pair.rows:
        return f"{pair.first} and {pair.second} have no size in common yet."
    smallest, largest = (count(pair.rows[i].images) for i in (0, -1))
    if found.kind == "undecided":
        why = "" if np.isfinite(pair.rows[0].ratio.low) else " (one seed has no interval)"
        return (
            f"{pair.first} and {pair.second}: no size from {smallest} to {largest} images tells "
            f"them apart{why}."
        )
    mine = measure.pairs[found.leader, found.follower]
    if found.kind == "several":
        return (
            f"{pair.first} and {pair.second}: the lead changes more than once between {smallest} "
            f"and {largest} images, so there is no single crossing; {found.leader} is ahead at the "
            "largest size that tells them apart."
        )
    if found.kind == "crossing":
        at, low, high = map(count, found.at)
        return (
            f"{found.follower} is ahead of {found.leader} with little data and behind with more: "
            f"they cross at {at} images ({INTERVAL} {low} to {high}). " + _measures(mine)
        )
    decided = sum(row.sign != 0 for row in mine.rows)
    text = (
        f"{found.leader} is ahead of {found.follower} at {decided} of {len(mine.rows)} sizes and "
        f"behind at none: no crossing in range, up to {largest} images. "
    )
    if mine.rows[-1].sign == 0 and len(mine.rows) > 1:
        text += f"With {largest} images they cannot be told apart. "
    return text + _measures(mine) + _trend(mine) + _multiplier(mine)


def _measures(mine: Pair) -> str:
    """The gap and the ratio at both ends, as the leader sees them."""
    first, last = mine.rows[0], mine.rows[-1]
    text = (
        f"{mine.first} minus {mine.second} is {percent(first.gap)} points at "
        f"{count(first.images)} images"
    )
    if len(mine.rows) > 1:
        text += f" and {percent(last.gap)} at {count(last.images)}"
    text += f"; the error of {mine.second} is {ratio(first.ratio)} times that of {mine.first}"
    return text + (f" and {ratio(last.ratio)} times. " if len(mine.rows) > 1 else ". ")


def _trend(mine: Pair) -> str:
    approach = mine.verdict.approach
    if approach == "unknown":
        return ""
    first, last = mine.rows[0].gap, mine.rows[-1].gap
    narrower, wider = last.high < first.low, last.low > first.high
    says = {
        "closing": "As a ratio of errors the lead shrinks with data. ",
        "widening": "As a ratio of errors the lead grows with data. ",
        "steady": "As a ratio of errors the lead neither shrinks nor grows for certain. ",
    }[approach]
    opposite = (narrower and approach == "widening") or (wider and approach == "closing")
    return says + ("Gap and ratio tell opposite stories here. " if opposite else "")


def _multiplier(mine: Pair) -> str:
    row = next(row for row in mine.rows if row.sign)  # the smallest size that tells them apart
    if math.isnan(row.multiplier.value):
        return ""
    who = f"with {count(row.images)} images, {mine.second}"
    if row.multiplier.value == math.inf:
        return f"To be as good as {mine.first} {who} needs more than {row.most:.3g} times as many."
    if row.multiplier.value == 0:
        return ""
    return f"To be as good as {mine.first} {who} needs {times(row)} times as many."


def others(view: View) -> str:
    """Where the other measures see another leader than the primary one."""
    primary, rest = view.measures[0], view.measures[1:]
    says = []
    for measure in rest:
        for pair in primary.ordered:
            other = measure.pairs[pair.first, pair.second].verdict
            if (other.kind, other.leader) != (pair.verdict.kind, pair.verdict.leader):
                says.append(
                    f"{pair.first} and {pair.second} by {measure.label}: "
                    f"{verdict(measure.pairs[pair.first, pair.second])}"
                )
    labels = " and ".join(measure.label for measure in rest)
    if not says:
        return f"By {labels} of the frozen features every pair has the same verdict."
    return f"Frozen features ({labels}) differ in: {'; '.join(says)}."


def of_fit(name: str, fitted) -> str:
    """A fitted slope, and what is known of a floor."""
    low, high = np.quantile(fitted.draws.b, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    text = f"The error of {name} falls as D^-{float(fitted.curve.b):.2f} ({low:.2f} to {high:.2f})"
    if len(fitted.slopes) + 1 < fit.FEWEST:
        return text + f"; {len(fitted.slopes) + 1} sizes identify no floor."
    if fitted.form == "power":
        return text + "; held-out sizes speak for no floor."
    low, high = np.quantile(fitted.draws.floor, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return text + (
        f" above a floor of {100 * float(fitted.curve.floor):.1f}% ({100 * low:.1f} to "
        f"{100 * high:.1f})."
    )


def caveats(view: View, measure: Measure) -> str:
    """What the intervals do not hold."""
    seeds = np.isfinite(measure.series[0].error).sum(axis=1).max()
    error = min(1 - mean for mean in _means(measure, -1).values())
    deviation = 100 * math.sqrt(max(error * (1 - error), 0) / view.test_images)
    text = (
        f"Intervals are {100 * LEVEL:.0f}% and over seeds (subset, first weights, order), not over "
        f"test images: of {count(view.test_images)} test images the best score alone has a "
        f"standard error of {deviation:.1f} points, most of which pairs share."
    )
    if seeds < 3:
        one = "One seed says little: intervals are missing."
        text += " " + (one if seeds == 1 else f"{seeds} seeds say little: intervals are wide.")
    text += _underfitted(view, measure)
    edges = [e for e, rates in view.rates.items() if len(rates) > 2 and _at_edge(rates)]
    if edges:
        text += f" Most rates chosen for {' and '.join(edges)} lie at an end of the grid."
    return text


def _underfitted(view: View, measure: Measure) -> str:
    """Encoders that more steps would help, where more images are what is asked about."""
    text = ""
    starved = [name for name, values in view.train.items() if nanmean(values[0]) < 0.95]
    if starved:
        text += (
            f" With the fewest images {' and '.join(starved)} had not learned the training views "
            "(below 95%): too few steps there, not too few images alone."
        )
    if measure.number != "accuracy/top1":
        return text
    for name, score in _means(measure, -1).items():
        learned = nanmean(view.train[name][-1])
        if 1 - learned > 0.5 * (1 - score):  # NaN, where nothing was trained on labels, is not
            text += (
                f" With the most images {name} answers {100 * learned:.1f}% of its training views "
                f"and {100 * score:.1f}% of the test: more than half of its error is there before "
                "any new image, so its steps or its size hold it back more than its images do."
            )
    return text


def _at_edge(rates: dict[float, int]) -> bool:
    ends = rates[min(rates)], rates[max(rates)]
    return max(ends) > 0.5 * sum(rates.values())
