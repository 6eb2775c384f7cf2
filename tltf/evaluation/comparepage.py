"""compare.html: runs side by side, their paired differences and where their settings differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tltf.evaluation import page
from tltf.evaluation.report import METRICS, metric_row


def write_html(found: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
      found: of :func:`tltf.stages.comparing.side_by_side`.
    """
    runs = found["runs"]
    present = [name for name in METRICS if any(name in run["metrics"] for run in runs)]
    view = {
        "runs": runs,
        "metrics": [
            {
                "label": METRICS[name][0],
                "help": METRICS[name][1],
                "cells": [
                    metric_row(name, run["metrics"][name]) if name in run["metrics"] else None
                    for run in runs
                ],
            }
            for name in present
        ],
        "paired": found["paired"],
        "settings": [
            (field, [json.dumps(value, ensure_ascii=False) for value in values])
            for field, values in found["settings"].items()
        ],
    }
    return page.rendered("compare.html", view)
