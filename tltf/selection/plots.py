"""The picture of a ranking: accuracy against latency, with the Pareto front."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tltf.selection.ranking import Ranking

FRONT, REST = "#0072b2", "#8a94a0"  # of Okabe & Ito's palette, and a grey


def pareto(found: Ranking) -> bytes:
    """Probe accuracy with its interval against milliseconds for one image, as PNG bytes."""
    figure = Figure(figsize=(7.0, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in found.rows:
        colour = FRONT if row.pareto else REST
        error = [[row.probe - row.low], [row.high - row.probe]]
        axes.errorbar(row.milliseconds, row.probe, yerr=error, fmt="o", color=colour, capsize=2)
        axes.annotate(
            row.name, (row.milliseconds, row.high), xytext=(0, 4), textcoords="offset points",
            fontsize=7, color=colour, ha="center",
        )  # fmt: skip
    front = sorted((row.milliseconds, row.probe) for row in found.rows if row.pareto)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1)
    times = [row.milliseconds for row in found.rows]
    if times and max(times) > 3 * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(FuncFormatter(_plain))
    axes.margins(x=0.2)
    axes.set_xlabel("milliseconds for one image on this machine")
    axes.set_ylabel("accuracy of a linear probe")
    n = found.rows[0].n if found.rows else 0
    axes.set_title(f"cross-validated on {n} examples, 95 % intervals", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plain(value: float, _: int) -> str:
    """``45`` rather than a power of ten."""
    return f"{value:g}"
