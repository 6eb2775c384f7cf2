"""Linear heads by strength, against slow solutions of the same problem."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import Ridge

from tltf.probes.linear import (
    ABSENT,
    Basis,
    Path,
    Targets,
    cross_fit,
    learnable,
    losses,
    mean_loss,
)


def problem(n=40, width=12, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = draw.normal(size=(classes, width))
    features = (centres[labels] + draw.normal(size=(n, width)) * 1.5).astype(np.float32)
    weights = draw.uniform(0.5, 2.0, n)
    return features, Targets(values=np.eye(classes)[labels], weights=weights, task="single_label")


def objective(kernel, bias, rows, targets, strength, width):
    """The formula of the module, term by term."""
    total = 0.0
    for row, value, weight in zip(rows, targets.values, targets.weights, strict=True):
        total -= weight * float((value * log_softmax(row @ kernel + bias)).sum())
    return total + width * float((kernel**2).sum()) / (2 * strength)


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_softmax_head_is_at_the_minimum_of_its_formula(strength):
    rows, targets = problem()
    head = Path(rows.astype(float), targets, width=12)(strength)

    def slow(flat):
        return objective(flat[:36].reshape(12, 3), flat[36:], rows, targets, strength, 12)

    best = minimize(slow, np.zeros(39), method="L-BFGS-B", options={"maxfun": 100_000})
    found = slow(np.concatenate([head.kernel.ravel(), head.bias]))
    assert found == pytest.approx(best.fun, rel=1e-4)


def test_ridge_and_sigmoid_heads_take_the_weights_of_the_examples():
    rows, targets = problem(classes=2)
    twice = np.concatenate([np.arange(40), np.arange(20)])
    for task, values in (("regression", targets.values[:, :1]), ("multi_label", targets.values)):
        doubled = np.where(np.arange(40) < 20, 2.0, 1.0)
        weighted = Targets(values=values, weights=doubled, task=task)
        repeated = Targets(values=values[twice], weights=np.ones(60), task=task)
        a = Path(rows.astype(float), weighted, width=12)(3.0)
        b = Path(rows[twice].astype(float), repeated, width=12)(3.0)
        np.testing.assert_allclose(a.kernel, b.kernel, rtol=2e-2, atol=2e-3)


def test_regression_is_the_ridge_of_the_formula():
    rows, _ = problem()
    values = rows @ np.linspace(-1, 1, 12)[:, None] + 3.0
    targets = Targets(values=values, weights=np.ones(40), task="regression")
    head = Path(rows.astype(float), targets, width=12)(5.0)
    reference = Ridge(alpha=12 / 5.0).fit(rows, values)
    np.testing.assert_allclose(head(rows), reference.predict(rows).reshape(-1, 1), atol=1e-4)


def test_a_basis_of_fewer_coordinates_gives_the_model_of_all_numbers():
    """With more numbers than examples the head on coordinates is the head on the features."""
    features, targets = problem(n=30, width=80)
    basis = Basis.of(features, [50, 30])
    assert basis.rows.shape[1] <= 30
    head = basis.head(Path(basis.rows, targets, width=80)(10.0))
    scaled = (features - basis.mean) / basis.scale
    slow = Path(scaled, targets, width=80)(10.0)
    np.testing.assert_allclose(head(features), slow(scaled), atol=5e-3)
    np.testing.assert_allclose(
        head(features), basis.rows @ Path(basis.rows, targets, width=80)(10.0).kernel
        + Path(basis.rows, targets, width=80)(10.0).bias, atol=1e-4,
    )  # fmt: skip


def test_each_part_is_scaled_by_one_number():
    """A number that hardly ever moves is not blown up to the size of the others."""
    features, _ = problem(n=30, width=6)
    features[:, 0] *= 1e-4
    features[:, 3:] *= 100
    basis = Basis.of(features, [3, 3])
    assert len(set(basis.scale[:3])) == len(set(basis.scale[3:])) == 1
    parts = ((features - basis.mean) / basis.scale).reshape(30, 2, 3)
    np.testing.assert_allclose((parts**2).mean(axis=(0, 2)), 1.0, rtol=1e-5)


def test_a_part_that_never_moves_stays_finite():
    features = np.ones((5, 4), np.float32)
    basis = Basis.of(features, [2, 2])
    assert np.isfinite(basis.rows).all()


def test_every_row_is_predicted_by_a_head_that_did_not_see_it():
    rows, targets = problem()
    folds = [(np.arange(20, 40), np.arange(20)), (np.arange(20), np.arange(20, 40))]
    found = cross_fit(rows.astype(float), targets, folds, width=12, strengths=(1.0,))
    other = Path(rows[20:].astype(float), targets[np.arange(20, 40)], width=12)(1.0)
    np.testing.assert_allclose(found.logits[:20], other(rows[:20]), atol=1e-6)
    assert found.loss == pytest.approx(mean_loss(found.logits, targets))


def test_the_strength_has_the_least_loss_out_of_fold():
    rows, targets = problem(n=60)
    folds = [(np.setdiff1d(np.arange(60), held), held) for held in np.split(np.arange(60), 3)]
    grid = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    found = cross_fit(rows.astype(float), targets, folds, width=12, strengths=grid)
    each = {
        s: cross_fit(rows.astype(float), targets, folds, width=12, strengths=(s,)).loss
        for s in grid
    }
    assert found.strength == min(each, key=each.get)


def test_a_class_that_a_fold_never_saw_says_nothing_about_strengths():
    rows, targets = problem(n=21, classes=3)
    values = np.eye(4)[[*targets.values[:20].argmax(axis=1), 3]]
    targets = Targets(values=values, weights=np.ones(21), task="single_label")
    folds = [(np.arange(10), np.arange(10, 21)), (np.arange(10, 21), np.arange(10))]
    assert 20 not in learnable(targets, folds)
    head = Path(rows[:20].astype(float), targets[np.arange(20)], width=12)(1.0)
    assert head.bias[3] == ABSENT
    assert not head.kernel[:, 3].any()


def test_labels_that_everyone_or_nobody_has():
    values = np.array([[1, 0], [1, 0], [1, 0]], float)
    targets = Targets(values=values, weights=np.ones(3), task="multi_label")
    head = Path(np.eye(3), targets, width=3)(1.0)
    np.testing.assert_array_equal(head.bias, [-ABSENT, ABSENT])
    assert losses(head(np.eye(3)), targets).max() < 1e-8
