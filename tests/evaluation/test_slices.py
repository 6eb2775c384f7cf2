"""Slices: the whole evaluation, on the rows of one value."""

from __future__ import annotations

import numpy as np

from tltf.data.manifest import Record
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.slices import slice_names, slices_block


def records(**fields: list) -> list[Record]:
    n = len(next(iter(fields.values())))
    rows = [{key: values[i] for key, values in fields.items()} for i in range(n)]
    return [Record(id=str(i), **row) for i, row in enumerate(rows)]


def test_a_slice_is_the_evaluation_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    p = rng.dirichlet([1, 1, 1], 90)
    p[:45] = 0.5 * p[:45] + 0.5 * np.eye(3)[y[:45]]
    names = ["day"] * 45 + ["night"] * 45
    found = slices_block(p, y, names, task="single_label", classes=["a", "b", "c"], seed=3)
    assert list(found) == ["night", "day"]
    settings = {"task": "single_label", "classes": ["a", "b", "c"], "n_resamples": 1000, "seed": 3}
    whole = evaluate(p[45:], y[45:], **settings)
    assert found["night"]["n"] == 45
    for name, estimate in found["night"]["metrics"].items():
        assert estimate == whole["metrics"][name]


def test_which_column_is_the_slice() -> None:
    assert slice_names(records(slice=["a", "b"], group=["x", "x"])) == ["a", "b"]
    assert slice_names(records(group=["x", "y", None])) == ["x", "y", ""]
    assert slice_names(records(group=["x", "x"])) is None
    assert slice_names(records(group=[str(i) for i in range(31)])) is None
