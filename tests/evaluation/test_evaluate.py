"""The shape of report.json, strict JSON, and what bad input is told."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from tltf.data.manifest import Excluded, Manifest, Record
from tltf.errors import ArgumentError, DataError, GateError
from tltf.evaluation import evaluate as ev
from tltf.evaluation import report
from tltf.evaluation.gate import parse_gate
from tltf.evaluation.rejection import DecisionRule
from tltf.evaluation.slices import slices_block
from tltf.evaluation.verdict import compare

TWO = {"task": "single_label", "classes": ["cat", "dog"], "n_resamples": 100}
KEYS = {"task", "n", "classes", "metrics", "per_class", "confusion"}


def full_report(task="single_label", n=40, seed=0):
    rng = np.random.default_rng(seed)
    classes = [] if task == "regression" else ["cat", "dog", "emu"]
    if task == "regression":
        logits, y = rng.normal(size=n), rng.normal(size=n)
    elif task == "multi_label":
        logits, y = rng.normal(size=(n, 3)), rng.integers(0, 2, (n, 3))
    else:
        logits, y = rng.normal(size=(n, 3)), rng.integers(0, 3, n)
    base = logits if task == "regression" else np.full((n, 3), 1 / 3)
    return ev.build_report(
        logits,
        y,
        task=task,
        classes=classes,
        rule=DecisionRule(temperature=1.5, threshold=0.4, coverage=0.95),
        baselines={"majority": base},
        verdict=compare(rng.random(n) < 0.9, rng.random(n) < 0.3),
        provenance=ev.provenance_block(
            spec={"backbone": {"name": "VGG16"}}, command=["tltf", "a b"]
        ),
        n_resamples=100,
    )


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_report_round_trips_through_strict_json(task):
    report = full_report(task)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report.keys() >= KEYS | {"baselines", "verdict", "provenance", "summary"}
    for estimate in report["metrics"].values():
        assert estimate.keys() == {"value", "low", "high", "n"}
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert report["baselines"]["majority"]["metrics"].keys() == report["metrics"].keys()
    assert ("calibration" in report) == (task != "regression")
    assert "backbone VGG16" in report["summary"]
    assert report["provenance"]["command"] == "tltf 'a b'"


def test_groups_stand_beside_n_wherever_it_is_said():
    rng = np.random.default_rng(0)
    of = [f"patient {i // 10}" for i in range(120)]
    y = rng.integers(0, 2, 120)
    right = (rng.random(12) < 0.7)[np.arange(120) // 10]
    p = np.where(np.eye(2)[np.where(right, y, 1 - y)] > 0, 0.9, 0.1)
    rule = DecisionRule(temperature=1.0, threshold=0.5, coverage=0.95)
    settings = {**TWO, "rule": rule, "baselines": {"majority": np.full((120, 2), 0.5)}}
    found = ev.build_report(np.log(p), y, groups=of, **settings)
    plain = ev.build_report(np.log(p), y, **settings)
    for block in (found["metrics"], found["baselines"]["majority"]["metrics"]):
        assert {row["groups"] for row in block.values()} == {12}
    assert "120 test examples in 12 groups" in found["summary"]
    assert "in 12 groups, which are taken for independent" in report.write_html(found)
    assert "groups" not in report.write_html(plain).split("<section")[1]

    def width(of_report, *path):
        ends = functools.reduce(lambda part, key: part[key], path, of_report)
        return ends[1] - ends[0]

    for path in (
        ("reject", "coverage_interval"),
        ("reject", "accuracy_accepted_interval"),
        ("per_class", "cat", "intervals", "recall"),
    ):
        assert width(found, *path) >= width(plain, *path), path
    assert width(found, "reject", "accuracy_accepted_interval") > 2 * width(
        plain, "reject", "accuracy_accepted_interval"
    )
    with pytest.raises(GateError, match=r"n=120 in 12 groups\), asked for >= 0.99"):
        parse_gate("accuracy>=0.99").check(found)
    names = ["left" if i % 2 else "right" for i in range(120)]
    rows = slices_block(p, y, names, task="single_label", classes=["cat", "dog"], groups=of)
    assert {row["metrics"]["accuracy"]["groups"] for row in rows.values()} == {12}


def test_what_is_rejected_has_an_interval_too():
    found = full_report(n=60)["reject"]
    assert found["n_accepted"] < 60
    low, high = found["accuracy_rejected_interval"]
    assert low <= found["accuracy_rejected"] <= high


def test_equal_seeds_give_equal_reports():
    assert json.dumps(full_report()) == json.dumps(full_report())


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_a_single_record(task):
    report = full_report(task, n=1)
    json.dumps(report, allow_nan=False)
    assert report["n"] == 1
    assert ("r2" in report["undefined"]) == (task == "regression")


def test_data_block():
    records = [
        Record(id=str(i), label="cat" if i % 3 else "dog", split="test" if i % 4 == 0 else "train")
        for i in range(12)
    ]
    excluded = tuple(Excluded(id=str(i), outcome="bad", reason="empty") for i in range(300))
    manifest = Manifest(
        task="single_label", classes=("cat", "dog"), records=tuple(records), excluded=excluded
    )
    block = ev.data_block(manifest)
    assert list(block["counts"]) == ["train", "test"]
    assert block["totals"] == {"train": 9, "test": 3}
    assert (len(block["excluded"]), block["n_excluded"]) == (200, 300)


@pytest.mark.parametrize(
    ("p", "y", "settings", "error", "message"),
    [
        ([[0.5, 0.4]], [0], {}, DataError, "do not sum to 1, row 0 to 0.9"),
        ([[2.0, -1.0]], [0], {}, DataError, "apply_temperature"),
        ([[np.nan, 1.0]], [0], {}, DataError, "NaN or infinity in 1 of 1 rows, first rows 0"),
        (np.zeros((0, 2)), [], {}, DataError, "no examples to evaluate"),
        ([0.2, 0.8], [0, 1], {}, ArgumentError, r"shape \[2\].*column_stack"),
        ([[0.2, 0.3, 0.5]], [0], {}, ArgumentError, r"shape \[1, 3\], expected \[n, 2\]"),
        ([[1, 0]], [0, 1], {}, ArgumentError, r"targets of shape \[2\], expected \[1\]"),
        ([[1, 0]], [[1, 0]], {}, ArgumentError, r"argmax\(axis=1\)"),
        ([[1, 0]], [2], {}, DataError, r"expected whole numbers in 0..1"),
        ([[1, 0]], [0.5], {}, DataError, "expected whole numbers"),
        ([[1, 0]], ["cat"], {}, ArgumentError, "targets cannot be read"),
        ([[1, 0]], [0], {"classes": ["a"]}, ArgumentError, "1 classes, expected at least 2"),
        ([[1, 0]], [0], {"classes": ["a", "a"]}, ArgumentError, "named twice: a"),
        ([[1, 0]], [0], {"task": "multilabel"}, ArgumentError, "did you mean 'multi_label'"),
        ([1.0], [np.inf], {"task": "regression", "classes": []}, DataError, "NaN or infinity"),
        ([1.0], [1.0], {"task": "regression"}, ArgumentError, "2 classes, expected none"),
    ],
)
def test_bad_input_is_told_what_to_do(p, y, settings, error, message):
    with pytest.raises(error, match=message):
        ev.evaluate(p, y, **{**TWO, **settings})


def test_a_command_is_a_list():
    with pytest.raises(ArgumentError, match="expected a list"):
        ev.provenance_block(spec={}, command="tltf train")


def test_float32_softmax_is_accepted():
    p = np.full((3, 1000), 1e-3, dtype=np.float32)
    classes = [str(i) for i in range(1000)]
    ev.evaluate(p, [0, 1, 2], task="single_label", classes=classes, n_resamples=100)


def test_evaluation_imports_no_tensorflow_and_no_pyplot():
    code = (
        "import sys, tltf.evaluation.report, tltf.evaluation.evaluate, tltf.evaluation.verdict\n"
        "bad = {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
