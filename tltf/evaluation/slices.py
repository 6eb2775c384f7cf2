"""The same metrics for parts of the records: the values of a ``slice`` column, or of the groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tltf.data.manifest import Record
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.summary import HEADLINE

MOST_SLICES = 30
SHOWN = {
    "single_label": ("accuracy", "macro_f1", "nll"),
    "multi_label": ("micro_f1", "macro_f1", "mAP"),
    "regression": ("mae", "rmse", "r2"),
}


def slice_names(records: Sequence[Record]) -> list[str] | None:
    """The slice of each record: its ``slice``, else its group; None if that divides nothing.

    More than 30 different groups are persons or places, not slices.
    """
    for field in ("slice", "group"):
        names = [str(getattr(record, field, None) or "") for record in records]
        if 1 < len(set(names)) <= MOST_SLICES:
            return names
    return None


def slices_block(
    probabilities: ArrayLike,
    targets: ArrayLike,
    names: Sequence[str],
    *,
    task: str,
    classes: Sequence[str],
    groups: Sequence[object] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Slice -> ``{"n", "metrics"}`` as :func:`~tltf.evaluation.evaluate.evaluate`, worst first."""
    outputs, y, where = np.asarray(probabilities), np.asarray(targets), np.asarray(names)
    found: dict[str, dict[str, Any]] = {}
    for name in Counter(names):
        rows = where == name
        report = evaluate(
            outputs[rows], y[rows], task=task, classes=classes, n_resamples=n_resamples, seed=seed,
            groups=None if groups is None else [groups[int(i)] for i in np.flatnonzero(rows)],
        )  # fmt: skip
        metrics = {key: report["metrics"][key] for key in SHOWN[task] if key in report["metrics"]}
        found[name or "(none)"] = {"n": int(rows.sum()), "metrics": metrics}
    sign = -1 if task == "regression" else 1
    headline = HEADLINE[task]
    order = sorted(found, key=lambda name: sign * found[name]["metrics"][headline]["value"])
    return {name: found[name] for name in order}
