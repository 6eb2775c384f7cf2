"""Density ratios: optima by a general solver, and a shift whose ratio is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from tltf import transfer
from tltf.errors import ArgumentError
from tltf.transfer import kernels, reweighting

METHODS = {
    "domain_classifier": reweighting.domain_classifier_weights,
    "kmm": reweighting.kmm,
    "kliep": reweighting.kliep,
    "ulsif": reweighting.ulsif,
}


def shifted(n: int = 300, *, seed: int = 0):
    """Two Gaussians, and the true ratio at the source."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 1, (n, 1)), rng.normal(0.8, 0.7, (n, 1))
    ratio = stats.norm.pdf(source[:, 0], 0.8, 0.7) / stats.norm.pdf(source[:, 0], 0, 1)
    return source, target, ratio


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_follows_the_true_ratio(name: str) -> None:
    source, target, ratio = shifted()
    found = METHODS[name](source, target)
    assert found.mean() == pytest.approx(1)
    assert (found >= 0).all()
    assert stats.spearmanr(found, ratio).statistic > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_equal_domains_get_equal_weights(name: str) -> None:
    source, _, _ = shifted(120)
    found = METHODS[name](source, source)
    assert transfer.effective_sample_size(found) > 0.9 * 120


def test_kernel_mean_matching_finds_the_papers_optimum() -> None:
    source, target, _ = shifted(12)
    found = reweighting.kmm(source, target, bandwidth=1.0, bound=3.0, epsilon=0.2)
    k = kernels.kernel(source, source, kind="gaussian")
    kappa = kernels.kernel(source, target, kind="gaussian").sum(1)
    best = optimize.minimize(
        lambda w: w @ k @ w / 2 - kappa @ w,
        np.ones(12),
        jac=lambda w: k @ w - kappa,
        bounds=[(0, 3)] * 12,
        constraints=[
            {"type": "ineq", "fun": lambda w: w.mean() - 0.8},
            {"type": "ineq", "fun": lambda w: 1.2 - w.mean()},
        ],
        options={"ftol": 1e-14, "maxiter": 1000},
    ).x
    ours = found * best.mean()
    value, ideal = (w @ k @ w / 2 - kappa @ w for w in (ours, best))
    assert value == pytest.approx(ideal, abs=1e-4)


def test_kliep_finds_the_papers_optimum() -> None:
    source, target, _ = shifted(30)
    middle = target[:4]
    alpha = reweighting._kliep(source, target, middle, 1.0, 5000)
    k_t = kernels.kernel(target, middle, kind="gaussian")
    b = kernels.kernel(source, middle, kind="gaussian").mean(0)
    best = optimize.minimize(
        lambda a: -np.log(np.maximum(k_t @ a, 1e-12)).mean(),
        np.full(4, 1 / (4 * b.mean())),
        bounds=[(0, None)] * 4,
        constraints=[{"type": "eq", "fun": lambda a: b @ a - 1}],
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert b @ alpha == pytest.approx(1)
    assert -np.log(k_t @ alpha).mean() == pytest.approx(best.fun, abs=1e-5)


def test_ulsif_is_the_closed_form() -> None:
    source, target, _ = shifted(20)
    found = reweighting.ulsif(source, target, bandwidth=1.0, regularizer=0.1)
    k_s, k_t = (kernels.kernel(x, target, kind="gaussian") for x in (source, target))
    h = sum(np.outer(row, row) for row in k_s) / 20
    alpha = np.maximum(np.linalg.inv(h + 0.1 * np.eye(20)) @ k_t.mean(0), 0)
    w = k_s @ alpha
    np.testing.assert_allclose(found, w / w.mean(), rtol=1e-6)


def test_the_effective_sample_size_warns_when_few_examples_decide() -> None:
    assert transfer.effective_sample_size(np.ones(7)) == pytest.approx(7)
    with pytest.warns(RuntimeWarning, match="1.0 of 30 source examples carry the weight"):
        transfer.effective_sample_size(np.eye(30)[0])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s, t: reweighting.kmm(s, t, bound=1), "bound=1"),
        (lambda s, t: reweighting.kliep(s, t, bandwidth=-1), "bandwidth=-1"),
    ],
)
def test_wrong_arguments_are_said(call, text) -> None:
    with pytest.raises(ArgumentError, match=text):
        call(*shifted(9)[:2])
