"""Temperature and reject rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from tltf.errors import ArgumentError, DataError
from tltf.evaluation import calibration
from tltf.evaluation.metrics import ece
from tltf.evaluation.rejection import DecisionRule, fit_rule, fit_threshold, reject_block


def planted(temperature, n=6000, c=5, seed=0):
    """Labels drawn from softmax(z); the network says z * temperature."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, c)) * 2
    y = (softmax(z, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return z * temperature, y


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_recovers_a_planted_temperature(temperature):
    logits, y = planted(temperature)
    found = calibration.fit_temperature(logits, y, task="single_label")
    assert found == pytest.approx(temperature, rel=0.06)


def test_recovers_a_planted_temperature_multi_label():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 3)) * 2
    y = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(int)
    assert calibration.fit_temperature(2.5 * z, y, task="multi_label") == pytest.approx(
        2.5, rel=0.06
    )


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_never_changes_a_predicted_label(task):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(500, 6)) * 3).astype(np.float32)
    for t in (0.05, 0.3, 1.0, 20.0):
        p = calibration.apply_temperature(logits, t, task=task)
        if task == "single_label":
            assert (p.argmax(axis=1) == logits.argmax(axis=1)).all()
        else:
            assert ((p >= 0.5) == (logits >= 0)).all()


def test_validation_without_an_error_stays_finite():
    logits, y = 4 * np.eye(3)[[0, 1, 2] * 5], np.array([0, 1, 2] * 5)
    found = calibration.fit_temperature(logits, y, task="single_label")
    assert 0.5 < found < 1.5
    assert calibration.fit_temperature(1e30 * logits, y, task="single_label") > 0
    assert calibration.fit_temperature(0 * logits, y, task="single_label") == 1.0


def test_regression_has_no_temperature():
    assert calibration.fit_temperature([1.0, 2.0], [1.0, 2.0], task="regression") == 1.0
    assert fit_rule([1.0], [1.0], task="regression") == DecisionRule()


def test_block_improves_what_was_overconfident():
    logits, y = planted(3.0)
    rule = fit_rule(logits[:3000], y[:3000], task="single_label")
    block = calibration.calibration_block(
        logits[3000:], y[3000:], temperature=rule.temperature, task="single_label"
    )
    assert block["ece_after"] < block["ece_before"] / 3
    assert block["nll_after"] < block["nll_before"]
    assert sum(row["count"] for row in block["after"]) == 3000
    p = softmax(logits[3000:], axis=1)
    assert block["ece_before"] == pytest.approx(ece(p.max(1), p.argmax(1) == y[3000:]))


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95, 1.0])
def test_threshold_keeps_the_wanted_share_and_no_more(coverage):
    values = np.random.default_rng(0).permutation(1000) / 1000
    threshold = fit_threshold(values, coverage=coverage)
    assert (values >= threshold).mean() == pytest.approx(coverage)
    assert (values > threshold).mean() < coverage


def test_reject_block_counts():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.3, 0.7]])
    block = reject_block(p, np.array([0, 1, 1, 1]), threshold=0.7, wanted=0.75, task="single_label")
    assert block["coverage"] == 0.75
    assert block["accuracy_accepted"] == pytest.approx(2 / 3)
    assert block["accuracy_rejected"] == 0.0
    none = reject_block(p, np.array([0, 1, 1, 1]), threshold=1.0, wanted=0.5, task="single_label")
    assert none["accuracy_accepted"] is None
    assert none["coverage"] == 0


def test_errors():
    with pytest.raises(DataError, match="NaN or infinity in 1 of 2 rows"):
        calibration.fit_temperature([[np.nan, 1], [0, 1]], [0, 1], task="single_label")
    with pytest.raises(ArgumentError, match="did you mean 'single_label'"):
        calibration.fit_temperature([[0, 1]], [0], task="singel_label")
    with pytest.raises(ArgumentError, match="temperature=0"):
        calibration.apply_temperature([[0.0, 1.0]], 0, task="single_label")
    with pytest.raises(ArgumentError, match="coverage=0"):
        fit_threshold([0.5], coverage=0)
    with pytest.raises(DataError, match="none at all"):
        fit_threshold([])
