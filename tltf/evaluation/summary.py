"""The one sentence and the one number that a report opens with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADLINE = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "mae"}
"""The metric that comes first, per task."""

PERCENT = frozenset(
    {"accuracy", "top3_accuracy", "top5_accuracy", "subset_accuracy", "balanced_accuracy"}
    | {"macro_f1", "micro_f1", "weighted_f1", "macro_precision", "macro_recall"}
)
"""Metrics shown in per cent; the others as plain numbers."""


def summary(report: Mapping[str, Any]) -> str:
    """What was measured, with interval and n, in one sentence.

    Args:
      report: with ``task``, ``n``, ``classes``, ``metrics`` and, if known, ``provenance``.
    """
    task, n = report["task"], report["n"]
    name = HEADLINE[task]
    if name not in report["metrics"]:
        return f"no number: none of the {n:,} examples has a label to compare the answers with"
    estimate = report["metrics"][name]
    words = {"accuracy": "accuracy", "micro_f1": "micro F1", "mae": "mean absolute error"}
    interval = "no interval"
    if estimate["low"] is not None:
        low, high = (shown(name, estimate[end], unit=False) for end in ("low", "high"))
        interval = f"95 % interval {low} to {high}"
    part = "target" if report.get("adaptation") else "test"
    scope = f"{n:,} {part} example{'' if n == 1 else 's'}"
    if estimate.get("groups"):
        scope += f" in {estimate['groups']:,} groups"
    if report["classes"]:
        what = "classes" if task == "single_label" else "labels"
        scope += f", {len(report['classes'])} {what}"
    backbone = backbone_name(report)
    scope += f", backbone {backbone}" if backbone else ""
    return f"{words[name]} {shown(name, estimate['value'])} ({interval}) on {scope}"


def shown(name: str, value: float | None, *, unit: bool = True) -> str:
    """A metric's value as a person reads it: ``90.0 %``, ``0.322``, or a dash for None."""
    if value is None:
        return "–"
    if name in PERCENT:
        return f"{100 * value:.1f}" + (" %" if unit else "")
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def interval_words(estimate: Mapping[str, Any], *, digits: int = 3) -> str:
    """What stands behind a number; one record has no interval.

    >>> interval_words({"low": 0.5, "high": 1.0, "n": 4})
    '95 % interval 0.500 to 1.000, n=4'
    >>> interval_words({"low": None, "high": None, "n": 1})
    'no interval, n=1'
    """
    n = f"n={estimate['n']}" + (f" in {estimate['groups']} groups" if "groups" in estimate else "")
    if estimate["low"] is None:
        return f"no interval, {n}"
    low, high = (f"{estimate[end]:.{digits}f}" for end in ("low", "high"))
    return f"95 % interval {low} to {high}, {n}"


def backbone_name(report: Mapping[str, Any]) -> str:
    """The backbone's name from the provenance, or an empty string; of a run its folder only."""
    spec = report.get("provenance", {}).get("spec", {})
    backbone = spec.get("backbone") if isinstance(spec, Mapping) else None
    name = str(backbone.get("name", "")) if isinstance(backbone, Mapping) else ""
    kind, _, path = name.partition(":")
    return f"file:{path.rstrip('/').rpartition('/')[2]}" if kind == "file" else name
