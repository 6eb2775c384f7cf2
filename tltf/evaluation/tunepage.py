"""tune.html: what a search tried, what was best on the validation split, and what that is worth."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tltf.evaluation import page, plots
from tltf.evaluation.report import METRICS, metric_row


def write_html(found: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
      found: ``tune.json`` as a dict.
    """
    trials = found["trials"]
    best = next(row for row in trials if row["trial"] == found["best"])
    default = next((row for row in trials if row["default"]), None)
    names = (found["objective"], found["shown"])
    knobs = found["searched"]
    ordered = sorted(trials, key=lambda row: (row["value"] is None, row["value"] or 0.0))
    values = [row["value"] for row in trials]
    at = trials.index(default) if default is not None else None
    label = METRICS[found["objective"]][0]
    view = {
        "sentence": sentence(found),
        "budget": found["budget_seconds"],
        "seconds": found["seconds"],
        "n": found["n"],
        "searched": [(knob["name"], _range(knob), _value(knob["default"]))
                     for knob in found["searched"]],
        "metrics": [METRICS[name][0] for name in names],
        "knobs": [knob["name"] for knob in knobs],
        "rows": [
            {
                "trial": row["trial"],
                "best": row is best,
                "default": row["default"],
                "cells": [metric_row(n, row["metrics"][n]) if n in row["metrics"] else None
                          for n in names],
                "ended": row["ended"],
                "seconds": row["seconds"],
                "params": [_value(row["params"].get(knob["name"], "")) for knob in knobs],
            }
            for row in ordered
        ],
        "figure": {
            theme: _uri(plots.trials(values, default=at, label=label, theme=colours))
            for theme, colours in plots.THEMES.items()
        },
    }  # fmt: skip
    return page.rendered("tune.html", view)


def sentence(found: Mapping[str, Any]) -> str:
    """The outcome in words, which never promise what was chosen by looking."""
    trials = {row["trial"]: row for row in found["trials"]}
    best = trials[found["best"]]
    default = next((row for row in trials.values() if row["default"]), None)
    name = METRICS[found["objective"]][0].lower()
    if best["default"]:
        return f"nothing in {len(trials)} trials was better than the plan without a search"
    if default is None or default["value"] is None:
        return f"best of {len(trials)} trials: {name} {best['value']:.4f} on validation"
    return (
        f"best of {len(trials)} trials: {name} {best['value']:.4f} on validation, against"
        f" {default['value']:.4f} without a search; that it was the best of many flatters it, the"
        " test split judges"
    )


def _range(knob: Mapping[str, Any]) -> str:
    if knob["choices"]:
        return ", ".join(_value(choice) for choice in knob["choices"])
    return f"{knob['low']:.2g} to {knob['high']:.2g}"


def _value(value: object) -> str:
    if value == "":
        return "–"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
