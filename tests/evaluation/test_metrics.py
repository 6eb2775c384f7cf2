"""Every metric equals scikit-learn or a slow loop, with and without resampling weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from tltf.evaluation import metrics
from tltf.evaluation.evaluate import evaluate
from tltf.evaluation.resampling import metrics_of_weights, ranking_of_weights


def single_label(n=200, c=7, seed=0, strength=2.0):
    """Probabilities with ties (rounded), and targets: not every class is predicted well."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, c, n)
    logits = np.round(rng.normal(size=(n, c)), 1)
    logits[np.arange(n), targets] += strength
    exp = np.exp(logits)
    return exp / exp.sum(axis=1, keepdims=True), targets


def multi_label(n=150, c=5, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, c)) < 0.3).astype(int)
    p = 1 / (1 + np.exp(-np.round(rng.normal(size=(n, c)) + 2 * targets - 1, 1)))
    return p, targets


def sklearn_single(p, y):
    hat, c = p.argmax(axis=1), p.shape[1]
    many = {"average": "macro", "zero_division": 0}
    auroc = sk.roc_auc_score(y, p, multi_class="ovr", labels=np.arange(c))
    return {
        "accuracy": sk.accuracy_score(y, hat),
        "macro_f1": sk.f1_score(y, hat, **many),
        "weighted_f1": sk.f1_score(y, hat, average="weighted"),
        "macro_precision": sk.precision_score(y, hat, **many),
        "macro_recall": sk.recall_score(y, hat, **many),
        "balanced_accuracy": sk.balanced_accuracy_score(y, hat),
        "nll": sk.log_loss(y, p, labels=np.arange(c)),
        "brier": slow_brier(p, y),
        "ece": slow_ece(p, y),
        "top3_accuracy": sk.top_k_accuracy_score(y, p, k=3, labels=np.arange(c)),
        "top5_accuracy": sk.top_k_accuracy_score(y, p, k=5, labels=np.arange(c)),
        "auroc": auroc,
    }


def slow_brier(p, y):
    total = 0.0
    for row, true in zip(p, y, strict=True):
        for c, value in enumerate(row):
            total += (value - (1.0 if c == true else 0.0)) ** 2
    return total / len(y)


def slow_ece(p, y, bins=15):
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i in range(len(y)) if low < max(p[i]) <= high]
        if inside:
            right = np.mean([p[i].argmax() == y[i] for i in inside])
            total += len(inside) / len(y) * abs(right - np.mean([max(p[i]) for i in inside]))
    return total


def test_single_label_values_are_scikit_learns():
    p, y = single_label()
    found = evaluate(p, y, task="single_label", classes=list("abcdefg"), n_resamples=100)
    expected = sklearn_single(p, y)
    assert found["metrics"].keys() == expected.keys()
    for name, value in expected.items():
        assert found["metrics"][name]["value"] == pytest.approx(value, abs=1e-12), name


def test_multi_label_values_are_scikit_learns():
    p, y = multi_label()
    found = metrics.metric_values(p, y, task="multi_label").values
    hat = p >= 0.5
    assert found == pytest.approx(
        {
            "micro_f1": sk.f1_score(y, hat, average="micro"),
            "macro_f1": sk.f1_score(y, hat, average="macro"),
            "subset_accuracy": sk.accuracy_score(y, hat),
            "hamming_loss": sk.hamming_loss(y, hat),
            "mAP": sk.average_precision_score(y, p, average="macro"),
            "nll": np.mean([sk.log_loss(y[:, c], p[:, c]) for c in range(5)]),
        }
    )


def test_regression_values_are_scikit_learns():
    rng = np.random.default_rng(0)
    y = rng.normal(1e6, 1, 80)
    hat = y + rng.normal(size=80) / 3
    found = evaluate(hat[:, None], y, task="regression", classes=[])["metrics"]
    assert found["mae"]["value"] == pytest.approx(sk.mean_absolute_error(y, hat))
    assert found["rmse"]["value"] == pytest.approx(sk.root_mean_squared_error(y, hat))
    assert found["r2"]["value"] == pytest.approx(sk.r2_score(y, hat))
    assert all(e["low"] < e["value"] < e["high"] for e in found.values())


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_repeated_records_single_label(seed):
    p, y = single_label(n=60, seed=seed)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in range(7)])
    weights = np.bincount(drawn, minlength=60)[None].astype(float)
    found = metrics_of_weights(p, y, task="single_label")(weights)
    found |= ranking_of_weights(p, y, task="single_label")(weights)
    expected = sklearn_single(p[drawn], y[drawn])
    assert {k: v[0] for k, v in found.items()} == pytest.approx(expected, abs=1e-12)


def test_weights_are_repeated_records_other_tasks():
    p, y = multi_label()
    drawn = np.random.default_rng(1).integers(0, 150, 150)
    weights = np.bincount(drawn, minlength=150)[None].astype(float)
    found = metrics_of_weights(p, y, task="multi_label")(weights)
    found |= ranking_of_weights(p, y, task="multi_label")(weights)
    expected = metrics.metric_values(p[drawn], y[drawn], task="multi_label").values
    assert {k: v[0] for k, v in found.items()} == pytest.approx(expected)
    a, b = p[:, 0], p[:, 1]
    found = metrics_of_weights(a, b, task="regression")(weights)
    expected = metrics.metric_values(a[drawn], b[drawn], task="regression").values
    assert {k: v[0] for k, v in found.items()} == pytest.approx(expected)


def test_two_classes_have_one_roc_curve():
    p, y = single_label(c=2)
    found = metrics.metric_values(p, y, task="single_label").values
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
    assert "top3_accuracy" not in found


def test_confusion_has_true_rows_and_all_classes():
    p = np.eye(4)[[0, 1, 1, 3]]
    report = evaluate(p, [0, 0, 1, 3], task="single_label", classes=list("abcd"))
    assert report["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert report["per_class"]["c"]["support"] == 0
    assert report["per_class"]["c"]["intervals"]["recall"] is None
    assert "auroc" not in report["metrics"]
    assert "1 of 4 classes" in report["undefined"]["auroc"]


def test_per_class_table_is_scikit_learns():
    p, y = single_label()
    table = evaluate(p, y, task="single_label", classes=list("abcdefg"))["per_class"]
    rows = sk.precision_recall_fscore_support(y, p.argmax(axis=1))
    for i, row in enumerate(table.values()):
        found = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx([float(column[i]) for column in rows])
        assert all(low <= row[k] <= high for k, (low, high) in row["intervals"].items())


def test_multi_label_confusion_per_label():
    p, y = multi_label()
    report = evaluate(p, y, task="multi_label", classes=list("abcde"))
    assert report["confusion"] == sk.multilabel_confusion_matrix(y, p >= 0.5).tolist()
    assert report["per_class"]["b"]["f1"] == pytest.approx(sk.f1_score(y[:, 1], p[:, 1] >= 0.5))


def test_a_label_that_nobody_carries_is_left_out():
    y = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]] * 10)
    found = evaluate(y * 0.8 + 0.1, y, task="multi_label", classes=list("abc"))
    assert found["metrics"]["macro_f1"]["value"] == 1.0
    assert found["metrics"]["macro_f1"]["high"] == 1.0
    # Said without being carried, it counts, and is wrong.
    p = y * 0.8 + 0.1
    p[0, 2] = 0.9
    wrong = evaluate(p, y, task="multi_label", classes=list("abc"))["metrics"]["macro_f1"]
    assert wrong["value"] == pytest.approx(2 / 3)
    nobody = evaluate(
        np.full((9, 2), 0.1), np.zeros((9, 2)), task="multi_label", classes=["a", "b"]
    )
    assert "macro_f1" in nobody["undefined"]
    weights = np.ones((1, 30))
    of_weights = metrics_of_weights(y * 0.8 + 0.1, y, task="multi_label")(weights)
    assert of_weights["macro_f1"][0] == 1.0
