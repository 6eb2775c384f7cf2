"""The report's pictures as PNG bytes: matplotlib's object API only, no pyplot, no global state.

Colours are those of Okabe & Ito (2008), which differ for every kind of colour blindness; each
picture comes in a light and a dark theme. Text sizes are chosen for a display width of 350 px,
three pictures side by side on a desk, one on a phone.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from tltf.errors import ArgumentError, nearest, printable
from tltf.evaluation.intervals import wilson

WIDTH, HEIGHT, DPI = 4.0, 3.0, 220
MOST_COUNTED_CLASSES = 20
LONGEST_NAME = 18

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one background."""

    page: str
    text: str
    muted: str
    grid: str
    first: str
    second: str
    ramp: tuple[str, ...]


THEMES = {
    "light": Theme(
        page="#ffffff",
        text="#1c2128",
        muted="#5a6472",
        grid="#e4e7eb",
        first="#0072b2",
        second="#c84e00",
        ramp=("#f7f9fb", "#cfe3f1", "#5ea8d3", "#0072b2", "#003a5c"),
    ),
    "dark": Theme(
        page="#161a20",
        text="#e7eaee",
        muted="#a0a9b5",
        grid="#2c333c",
        first="#56b4e9",
        second="#f0a030",
        ramp=("#1c2129", "#12405f", "#1f78ab", "#56b4e9", "#d8f0ff"),
    ),
}


def report_figures(
    report: Mapping[str, Any], history: History = (), *, theme: str = "light"
) -> dict[str, bytes]:
    """Every picture of the report, name -> PNG; what there is no data for is left out.

    Args:
      report: report.json as a dict.
      history: rows of history.jsonl: ``phase``, ``epoch`` and numbers per epoch.
      theme: ``light`` or ``dark``.

    Returns:
      Among ``training_loss``, ``training_<metric>``, ``learning_rate``,
      ``rate_search_<phase>``, ``confusion``, ``reliability_before``, ``reliability_after``,
      ``label_curve``, ``scatter``.

    Raises:
      ArgumentError: an unknown theme.
    """
    if theme not in THEMES:
        raise ArgumentError(
            f"theme={theme!r}, expected light or dark{nearest(str(theme), THEMES)}", where="theme"
        )
    colours = THEMES[theme]
    figures = {}
    for name, keys in curve_keys(history).items():
        figures[name] = curve(history, keys=keys, theme=colours)
    for name, found in (report.get("rate_search") or {}).items():
        figures[f"rate_search_{name}"] = rate_search(found, theme=colours)
    if report["task"] == "single_label" and report["confusion"]:
        figures["confusion"] = confusion(report["confusion"], report["classes"], theme=colours)
    for when in ("before", "after"):
        bins = (report.get("calibration") or {}).get(when)
        if bins:
            figures[f"reliability_{when}"] = reliability(bins, theme=colours)
    if report.get("label_curve"):
        figures["label_curve"] = label_curve(report["label_curve"], theme=colours)
    if report.get("points"):
        figures["scatter"] = scatter(report["points"], theme=colours)
    return figures


def curve_keys(history: History) -> dict[str, tuple[str, ...]]:
    """Picture name -> the columns of the history that it draws: loss, one metric, learning rate."""
    present = {key for row in history for key, value in row.items() if _number(value) is not None}
    pictures: dict[str, tuple[str, ...]] = {}
    loss = tuple(key for key in ("loss", "val_loss") if key in present)
    if loss:
        pictures["training_loss"] = loss
    metrics = sorted(k for k in present if f"val_{k}" in present and k != "loss")
    for name in ["accuracy"] if "accuracy" in metrics else metrics[:1]:
        pictures[f"training_{name}"] = (name, f"val_{name}")
    if "learning_rate" in present:
        pictures["learning_rate"] = ("learning_rate",)
    return pictures


def curve(history: History, *, keys: Sequence[str], theme: Theme) -> bytes:
    """One line per column over all epochs of all phases; phases are named and divided."""
    with _figure(theme) as (figure, axes):
        x = np.arange(1, len(history) + 1)
        for key, colour, style in zip(
            keys, (theme.first, theme.second), (("o", "-"), ("s", "--")), strict=False
        ):
            y = [_number(row.get(key)) for row in history]
            values = np.array([math.nan if v is None else v for v in y])
            label = {"loss": "train", "val_loss": "validation"}.get(
                key, "validation" if key.startswith("val_") else "train"
            )
            marker, line = style
            axes.plot(x, values, line, color=colour, label=label, lw=1.8,
                      marker=marker if len(x) <= 40 else None, ms=3.5)  # fmt: skip
        title = keys[0].removeprefix("val_").replace("_", " ")
        axes.set_title(title[:1].upper() + title[1:])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.set_xlim(0.5, len(history) + 0.5)
        if keys[0] == "learning_rate" and all((_number(r.get(keys[0])) or 0) > 0 for r in history):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.14)
        _mark_phases(axes, [str(row.get("phase", "")) for row in history], theme)
        if len(keys) > 1:
            axes.legend(loc="best", frameon=False)
        return _png(figure)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], *, theme: Theme) -> bytes:
    """Rows are true classes, shaded by their share of the row; counts are written if few classes.

    Args:
      matrix: counts [C, C].
      classes: C names.
      theme: colours.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    n = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    names = [_short(name) for name in classes]
    small = n <= MOST_COUNTED_CLASSES
    cell = 0.42 if n <= 8 else 0.34 if small else max(0.115, min(0.24, 9 / n))
    side = cell * n + 0.075 * max(map(len, names)) + 0.9
    size = max(WIDTH, side)
    dpi = min(DPI, int(1500 / size))
    font = 8.5 if small else max(4.0, cell * 50)
    with _figure(theme, size=(size, size * 0.94), dpi=dpi) as (figure, axes):
        ramp = LinearSegmentedColormap.from_list("share", list(theme.ramp))
        # Square roots: a confusion of 5 % has to be seen beside a diagonal of 95 %.
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        image = axes.imshow(shares, cmap=ramp, norm=norm, aspect="equal")
        axes.set_xticks(range(n), names, rotation=90 if n > 8 else 45, fontsize=font,
                        ha="center" if n > 8 else "right", rotation_mode="anchor" if n <= 8 else None)  # fmt: skip  # noqa: E501
        axes.set_yticks(range(n), names, fontsize=font)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        if small:
            axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
            axes.grid(which="minor", color=theme.page, lw=1.5)
            axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.03, shrink=0.5, anchor=(0, 1),
                              ticks=[0, 0.1, 0.5, 1])  # fmt: skip
        bar.ax.set_yticklabels(["0 %", "10 %", "50 %", "100 %"], fontsize=8)
        bar.outline.set_visible(False)  # type: ignore[operator]
        if small:
            for i, j in np.argwhere(counts > 0):
                colour = _readable(ramp(norm(shares[i, j])))
                axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center",
                          color=colour, fontsize=font)  # fmt: skip
        return _png(figure, dpi=dpi)


def reliability(bins: Sequence[Mapping[str, Any]], *, theme: Theme) -> bytes:
    """How often predictions of each confidence are right; the diagonal is perfect calibration.

    Args:
      bins: of :func:`tltf.evaluation.calibration.reliability_bins`.
      theme: colours.
    """
    used = [row for row in bins if row["count"]]
    counts = np.array([row["count"] for row in used])
    x, y = (np.array([row[key] for row in used]) for key in ("confidence", "accuracy"))
    ends = np.array([wilson(k, c) for k, c in zip(y * counts, counts, strict=True)])
    with _figure(theme, size=(WIDTH, WIDTH * 0.92)) as (figure, axes):
        low = [row["low"] for row in used]
        axes.bar(low, counts / counts.sum(), width=1 / len(bins), align="edge", color=theme.muted,
                 alpha=0.28, lw=0, label="share of predictions")  # fmt: skip
        axes.plot([0, 1], [0, 1], "--", color=theme.muted, lw=1, label="ideal")
        axes.errorbar(x, y, yerr=[y - ends[:, 0], ends[:, 1] - y], fmt="o", color=theme.first,
                      ms=4.5, lw=1.2, label="measured, 95 %")  # fmt: skip
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share correct")
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7.5,
                      handlelength=1.4, columnspacing=1.0, handletextpad=0.5)  # fmt: skip
        return _png(figure)


def label_curve(rows: Sequence[Mapping[str, Any]], *, theme: Theme) -> bytes:
    """Accuracy over the number of labels, with its band.

    Args:
      rows: of :func:`tltf.evaluation.baselines.label_curve`.
      theme: colours.
    """
    x = np.array([row["labels"] for row in rows], dtype=np.float64)
    value, low, high = (
        np.array([100 * row["accuracy"][key] for row in rows]) for key in ("value", "low", "high")
    )
    with _figure(theme) as (figure, axes):
        axes.fill_between(x, low, high, color=theme.first, alpha=0.18, lw=0)
        axes.plot(x, value, "-o", color=theme.first, lw=1.8, ms=4.5)
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{n:,.0f}" for n in x])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel("training labels")
        axes.set_ylabel("accuracy, %")
        axes.margins(y=0.1)
        return _png(figure)


def rate_search(found: Mapping[str, Any], *, theme: Theme) -> bytes:
    """The loss after a rehearsal at each rate, with the rate that was taken as a line."""
    with _figure(theme) as (figure, axes):
        losses = np.array(found["losses"], dtype=np.float64)
        axes.plot(found["rates"], losses, "o-", color=theme.first, lw=1.8, ms=4)
        axes.axvline(found["learning_rate"], color=theme.second, lw=1.4, ls="--")
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        shown = losses[np.isfinite(losses)]
        if len(shown):
            axes.set_ylim(0, 1.1 * shown.max() + 1e-9)
        axes.set_xlabel("learning rate")
        axes.set_ylabel(f"{found['monitor']} after a rehearsal")
        return _png(figure)


def trials(
    values: Sequence[float | None], *, default: int | None, label: str, theme: Theme
) -> bytes:
    """The score of each trial of a search, the best so far, and the plan without a search.

    Args:
      values: score by trial, lower is better; None for one that was ended early.
      default: which of them is the plan without a search.
      label: name of the score.
      theme: colours.
    """
    y = np.array([math.nan if value is None else value for value in values])
    x = np.arange(len(y))
    with _figure(theme) as (figure, axes):
        axes.plot(x, np.fmin.accumulate(y), "-", color=theme.first, lw=1.8, label="best so far")
        axes.plot(x, y, "o", color=theme.first, ms=4, alpha=0.6)
        if default is not None and not math.isnan(y[default]):
            axes.axhline(y[default], color=theme.second, lw=1.2, ls="--", label="without a search")
        shown = y[~np.isnan(y)]
        axes.set_ylim(0.9 * shown.min(), 1.1 * float(np.quantile(shown, 0.9)) + 1e-9)
        axes.set_xlabel("trial")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=7.5)
        return _png(figure)


def scatter(points: Mapping[str, Sequence[float]], *, theme: Theme) -> bytes:
    """Predicted over true values of a regression; on the diagonal they are equal."""
    true, predicted = np.asarray(points["true"]), np.asarray(points["predicted"])
    low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
    pad = 0.04 * (high - low) or 1.0
    with _figure(theme, size=(WIDTH, WIDTH * 0.92)) as (figure, axes):
        axes.plot([low - pad, high + pad], [low - pad, high + pad], "--", color=theme.muted, lw=1)
        axes.scatter(true, predicted, s=12, color=theme.first, alpha=0.55, linewidths=0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
        axes.set_aspect("equal")
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        return _png(figure)


@contextmanager
def _figure(
    theme: Theme, *, size: tuple[float, float] = (WIDTH, HEIGHT), dpi: int = DPI
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one plot in the theme's colours; settings are restored on leaving."""
    settings: dict[Any, Any] = {
        "font.size": 9,
        "font.family": ["DejaVu Sans"],
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.facecolor": theme.page,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "figure.facecolor": theme.page,
        "text.color": theme.text,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "legend.fontsize": 8,
        # A class may be called "$x_{": it is a name, not a formula.
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # Names in scripts that the font lacks become boxes here; the tables show them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _png(figure: Figure, *, dpi: int = DPI) -> bytes:
    # No "Software" entry: the same data gives the same bytes under any matplotlib patch release.
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _mark_phases(axes: Axes, phases: Sequence[str], theme: Theme) -> None:
    starts = [0] + [i for i, (a, b) in enumerate(pairwise(phases), start=1) if a != b]
    for start in starts:
        if start:
            axes.axvline(start + 0.5, color=theme.muted, lw=0.9, ls=(0, (2, 2)))
        if len(starts) > 1:
            axes.annotate(
                _short(phases[start]), (start + 0.5, 1), xycoords=("data", "axes fraction"),
                xytext=(4, -2), textcoords="offset points", va="top", fontsize=8,
                color=theme.muted,
            )  # fmt: skip


def _readable(background: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with the cell (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#10141a" if luminance > 0.18 else "#ffffff"


def _short(name: object) -> str:
    text = printable(str(name))
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def _number(value: object) -> float | None:
    """The value if it is a finite number, else None: a diverged epoch is a gap in the line."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
