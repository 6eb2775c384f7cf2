"""What :mod:`experiments.benchmarks.defaults` prints: tables in Markdown, and the promises."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.benchmarks.defaults_cells import ALL
from experiments.benchmarks.defaults_figures import Figures, Gap, Place, half_width
from experiments.benchmarks.defaults_rivals import METHODS

BEFORE = {
    ("sst2", "8"): 0.603, ("sst2", "32"): 0.656, ("sst2", ALL): 0.880,
    ("mr", "8"): 0.545, ("mr", "32"): 0.674, ("mr", ALL): 0.844,
    ("trec6", "8"): 0.649, ("trec6", "32"): 0.837, ("trec6", ALL): 0.945,
}  # fmt: skip
"""Accuracy of ``tltf train`` before it chose by cross-fitting: 85 % of the labels, other draws."""
VERDICT = {True: "yes", False: "no", None: "open"}
DRAWS = 5
SLACK = 1e-9


def page(figures: Figures, judged: str) -> Iterator[str]:
    """All lines, of photos and of texts, as far as there are rows."""
    for kind in ("photos", "texts"):
        if figures.places(kind):
            yield f"\n**{kind}: accuracy**\n"
            yield from table(figures, kind, judged, "accuracy")
            yield f"\n**{kind}: log-loss**\n"
            yield from table(figures, kind, judged, "nll")
            yield ""
            yield from comparisons(figures, kind, judged)
            yield from promises(figures, kind, judged)


def table(figures: Figures, kind: str, judged: str, field: str) -> Iterator[str]:
    """A row for each cell, and the mean of the cells that all methods have."""
    methods = [name for name in METHODS if name in figures.methods(kind)]
    rivals = [b for b in _rivals(figures, kind) if b != judged] if field == "accuracy" else []
    rivals = rivals if judged in methods else []
    header = ["set", "labels per class", "labels", "tests", "seeds", *methods,
              *(f"{judged} − {name}" for name in rivals)]  # fmt: skip
    yield _row(header)
    yield _row(["---"] * len(header))
    for place in figures.places(kind):
        rows = [figures.by_seed(place, name) for name in methods]
        one = next(iter(row for found in rows for row in found.values()))
        counts = sorted({len(found) for found in rows if found})
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        means = [_shown(figures.mean(place, name, field)) for name in methods]
        gaps = [_points(list(figures.points(place, judged, b).values())) for b in rivals]
        yield _row([*place, f"{one['n_train']}", f"{one['n_test']}", seeds, *means, *gaps])
    whole = figures.whole(kind, methods)
    if whole:
        means = [_shown(mean) for mean in figures.over(kind, methods, field).values()]
        gaps = [_mean_points(figures, whole, judged, b) for b in rivals]
        yield _row([f"mean of {len(whole)} cells", "", "", "", "", *means, *gaps])


def comparisons(figures: Figures, kind: str, judged: str) -> Iterator[str]:
    """The judged method beside each rival, with the interval and the worst cell."""
    probes = figures.probes(kind)
    if probes:
        means = ", ".join(f"{name} {mean:.4f}" for name, mean in probes.items())
        yield f"the probe of {kind} is {next(iter(probes))}: {means}"
    for rival in (*_rivals(figures, kind), "plan"):
        gap = figures.gap(kind, judged, rival)
        if gap is None:
            continue
        below, cells = figures.lower_loss(kind, judged, rival)
        yield (
            f"{judged} − {rival}: {_mean(gap)} points, mean of {len(gap.cells)} cells, interval by"
            f" bootstrap of {gap.sets} sets and their seeds; worst {_cell(gap.worst)}"
            f" {_points(list(gap.cells[gap.worst].values()))}; log-loss lower in {below} of"
            f" {cells} cells"
        )


def promises(figures: Figures, kind: str, judged: str) -> Iterator[str]:
    """What the defaults have to meet, each with its figure and yes, no or open."""
    needed = [judged, *_rivals(figures, kind)]
    done, wanted = figures.complete(kind, needed)
    yield _promise(f"{wanted} cells with three seeds of {', '.join(needed)}", f"{done}",
                   True if done == wanted else None)  # fmt: skip
    probe = next(iter(figures.probes(kind)), "probe")
    gap = figures.gap(kind, judged, probe)
    if kind == "photos":
        yield _at_least(f"{judged} at least 2 points above {probe}, mean over cells", gap, 2.0)
        yield _at_least(f"{judged} at least 3 points above guide, mean over cells",
                        figures.gap(kind, judged, "guide"), 3.0)  # fmt: skip
        below, cells = figures.lower_loss(kind, judged, probe)
        yield _promise(f"log-loss below that of {probe} in at least 80 % of cells",
                       f"{below} of {cells}", below >= 0.8 * cells if cells else None)  # fmt: skip
    yield _worst(f"no cell more than 0.5 points below {probe}", gap)
    if kind == "texts":
        yield from _curves(figures, judged)


def _curves(figures: Figures, judged: str) -> Iterator[str]:
    """Texts beside what the same command reached before."""
    found = {place: figures.mean(place, judged, "accuracy") for place in BEFORE}
    found = {place: mean for place, mean in found.items() if not math.isnan(mean)}
    above = {place: 100 * (mean - BEFORE[place]) for place, mean in found.items()}
    for few, least, text in (
        (True, 4.0, "8 and 32 labels per class at least 4 points above the curves before"),
        (False, 0.0, "all labels not below the accuracies before"),
    ):
        own = {place: points for place, points in above.items() if (place[1] != ALL) == few}
        all_there = len(own) == sum((place[1] != ALL) == few for place in BEFORE)
        figure = ", ".join(f"{_cell(place)} {points:+.1f}" for place, points in own.items())
        missed = any(points < least - SLACK for points in own.values())
        yield _promise(text, figure, False if missed else True if all_there else None)
    draws = [row["accuracy"] for row in figures.by_seed(("sst2", "8"), judged).values()]
    mean = float(np.mean(draws)) if draws else float("nan")
    yield _promise(f"sst2 with 8 labels per class at least .68, mean of {DRAWS} draws",
                   f"{_shown(mean)}, {len(draws)} draws",
                   mean >= 0.68 if len(draws) >= DRAWS else None)  # fmt: skip


def _rivals(figures: Figures, kind: str) -> list[str]:
    """The better probe, and the guide of photos."""
    probe = next(iter(figures.probes(kind)), "probe")
    return [probe, "guide"] if kind == "photos" else [probe]


def _at_least(text: str, gap: Gap | None, bound: float) -> str:
    if gap is None:
        return _promise(text, "–", None)
    return _promise(text, _mean(gap), gap.mean >= bound - SLACK)


def _mean(gap: Gap) -> str:
    if math.isnan(gap.low):
        return f"{gap.mean:+.2f} (one draw: no interval)"
    return f"{gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"


def _worst(text: str, gap: Gap | None) -> str:
    if gap is None:
        return _promise(text, "–", None)
    means = {place: float(np.mean(list(points.values()))) for place, points in gap.cells.items()}
    low = sorted((mean, place) for place, mean in means.items() if mean < -0.5 - SLACK)
    shown = [place for _, place in low] or [gap.worst]
    figure = ", ".join(f"{_cell(p)} {_points(list(gap.cells[p].values()))}" for p in shown)
    return _promise(text, figure, not low)


def _promise(text: str, figure: str, met: bool | None) -> str:
    return f"- {VERDICT[met]}: {text}: {figure}"


def _cell(place: Place) -> str:
    return f"{place[0]} {place[1]}"


def _points(values: Sequence[float]) -> str:
    """Mean with the interval over seeds."""
    if not values:
        return "–"
    half = half_width(values)
    return f"{np.mean(values):+.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


def _mean_points(figures: Figures, places: Sequence[Place], a: str, b: str) -> str:
    """Over some cells."""
    found = [list(figures.points(place, a, b).values()) for place in places]
    return f"{np.mean([np.mean(x) for x in found]):+.1f}" if all(found) else "–"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
