"""How far an input is from everything that was trained on, whatever the classifier says of it.

The score is the distance of Mahalanobis from the nearest class mean in feature space, with one
covariance for all classes (Lee et al. 2018). With D features and fewer records the covariance is
shrunk towards a multiple of the identity by the formula of Chen et al. (2010, OAS). Its largest
eigenvalues are kept, at most 128, and the rest is replaced by their mean: that is what fits into
a servable, and for fewer records than that it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from tltf.errors import ArgumentError, DataError
from tltf.evaluation.inputs import Floats
from tltf.evaluation.intervals import Estimate, bootstrap, wilson, wilson_of_variance

MOST_DIRECTIONS = 128
MOST_RECORDS = 2000
FAMILIAR_SHARE = 0.95
_LEAST = 1e-12

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """What the score needs; float32 arrays, as they are in the servable.

    Args:
      means: class means ``[C, D]``.
      directions: ``[D, K]``, orthonormal.
      scales: ``[K]``: what a squared coordinate counts beyond ``rest``.
      rest: what a squared distance counts in every other direction.
      limit: the distance that 95 % of validation are within; scores are multiples of it.
    """

    means: NDArray[np.float32]
    directions: NDArray[np.float32]
    scales: NDArray[np.float32]
    rest: float
    limit: float

    def score(self, features: ArrayLike) -> Floats:
        """Distances ``[n]`` over the limit: above 1 is stranger than 95 % of validation.

        ``sqrt(min_c rest |x - m_c|^2 + sum_k scales[k] (u_k . (x - m_c))^2) / limit``.

        Args:
          features: ``[n, D]``.
        """
        return distances(self, features) / self.limit

    def tensors(self) -> Tensors:
        """For saving; :func:`from_tensors` reads them."""
        return {
            "means": self.means,
            "directions": self.directions,
            "scales": self.scales,
            "rest_and_limit": np.array([self.rest, self.limit], np.float32),
        }


def from_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> Familiarity:
    """What :meth:`Familiarity.tensors` gave."""
    rest, limit = (float(x) for x in tensors["rest_and_limit"])
    return Familiarity(
        means=tensors["means"],
        directions=tensors["directions"],
        scales=tensors["scales"],
        rest=rest,
        limit=limit,
    )


def fit_familiarity(
    features: ArrayLike, targets: ArrayLike, *, validation: ArrayLike
) -> Familiarity | None:
    """Class means and covariance from training, the limit from validation.

    Args:
      features: ``[n, D]`` of training records; 2,000 are plenty.
      targets: class indices ``[n]``; all zero where there are no classes.
      validation: features ``[m, D]`` of validation records, m >= 1.

    Returns:
      None when the features do not vary, so that there is no distance to speak of.

    Raises:
      ArgumentError: shapes that do not belong together.
      DataError: NaN or infinity among the features.
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.int64)
    held = np.asarray(validation, np.float64)
    if x.ndim != 2 or held.ndim != 2 or y.shape != x.shape[:1] or held.shape[1:] != x.shape[1:]:
        raise ArgumentError(
            f"features {list(x.shape)}, targets {list(y.shape)} and validation"
            f" {list(held.shape)}, expected [n, D], [n] and [m, D]",
            where="features",
        )
    if not (np.isfinite(x).all() and np.isfinite(held).all()):
        raise DataError("NaN or infinity among the features", where="features")
    present = np.unique(y)
    means = np.stack([x[y == c].mean(axis=0) for c in present])
    centred = x - means[np.searchsorted(present, y)]
    values, directions = _spectrum(centred)
    values, floor = shrunk(values, n=len(x), dimension=x.shape[1])
    if floor <= _LEAST:
        return None
    values, directions, rest = _cut(values, directions, floor, dimension=x.shape[1])
    found = Familiarity(
        means=means.astype(np.float32),
        directions=directions.astype(np.float32),
        scales=(1 / values - 1 / rest).astype(np.float32),
        rest=float(1 / rest),
        limit=1.0,
    )
    return with_limit(found, distances(found, held))


def with_limit(familiarity: Familiarity, held: ArrayLike) -> Familiarity:
    """The same with the distance that 95 % of these are within as its limit.

    Args:
      familiarity: of which the distances are, or of the same kind of features.
      held: distances ``[m]`` of records that it was not fitted on, m >= 1.
    """
    limit = float(np.quantile(np.asarray(held, np.float64), FAMILIAR_SHARE))
    return replace(familiarity, limit=max(limit, _LEAST))


def distances(familiarity: Familiarity, features: ArrayLike) -> Floats:
    """Distances ``[n]`` of Mahalanobis from the nearest class mean."""
    x = np.asarray(features, np.float64)
    means = familiarity.means.astype(np.float64)
    directions = familiarity.directions.astype(np.float64)
    plain = (x**2).sum(1)[:, None] - 2 * x @ means.T + (means**2).sum(1)[None, :]
    along = (x @ directions)[:, None, :] - (means @ directions)[None, :, :]
    squared = familiarity.rest * np.maximum(plain, 0) + (along**2) @ familiarity.scales
    return np.asarray(np.sqrt(np.maximum(squared, 0).min(axis=1)))


def shrunk(values: Floats, *, n: int, dimension: int) -> tuple[Floats, float]:
    """Eigenvalues after OAS shrinkage, and that of every direction that is not among them.

    With S of trace t and mean eigenvalue ``mu = t / D``, and ``a = tr(S^2) / D^2``:
    ``rho = (a + mu^2) / ((n + 1) (a - mu^2 / D))``, at most 1, and S becomes
    ``(1 - rho) S + rho mu I`` (Chen et al. 2010, eq. 23, as in scikit-learn).
    """
    mu = float(values.sum()) / dimension
    alpha = float((values**2).sum()) / dimension**2
    bottom = (n + 1) * (alpha - mu**2 / dimension)
    rho = 1.0 if bottom <= 0 else min(1.0, (alpha + mu**2) / bottom)
    return (1 - rho) * values + rho * mu, rho * mu


def unknown_block(known: ArrayLike, unknown: ArrayLike, *, seed: int = 0) -> dict[str, object]:
    """How well a score tells strangers from test inputs; a stranger's should be higher.

    Args:
      known: scores ``[n]`` of test records.
      unknown: scores ``[m]`` of inputs of no class.
      seed: of the bootstrap.

    Returns:
      ``auroc`` with its interval; ``fpr95``, the share of strangers that pass when 95 % of the
      known pass, with Wilson's interval; and both n.
    """
    a, b = np.asarray(known, np.float64), np.asarray(unknown, np.float64)
    scores, truth = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    auroc = float(roc_auc_score(truth, scores))
    # One more of each on the wrong side: where all are told apart the others have no variance.
    padded = np.concatenate([scores, [scores.max() + 1, scores.min() - 1]])
    strata = np.concatenate([truth, [0, 1]])
    order = np.argsort(padded, kind="stable")

    def resampled(weights: Floats) -> dict[str, Floats]:
        ordered, of = padded[order], strata[order]
        return {"auroc": np.array([_auroc(ordered, of, w[order]) for w in weights])}

    samples = bootstrap(resampled, strata=strata, n_resamples=500, seed=seed)["auroc"]
    near = _auroc(padded[order], strata[order], np.ones(len(order)))
    ends = wilson_of_variance(
        auroc, near=near, variance=float(samples.var()), n_independent=len(scores)
    )
    limit = np.quantile(a, FAMILIAR_SHARE)
    passed = int((b <= limit).sum())
    return {
        "auroc": Estimate(auroc, *ends, len(scores)).as_dict(),
        "fpr95": passed / len(b),
        "fpr95_interval": list(wilson(passed, len(b))),
        "n_known": len(a),
        "n_unknown": len(b),
    }


def _auroc(ordered: Floats, truth: NDArray[np.int64], weights: Floats) -> float:
    """Area for records in ascending order of score: P(stranger > known) + P(equal) / 2."""
    group = np.cumsum(np.r_[0, np.diff(ordered) > 0])
    strange = np.bincount(group, weights * truth)
    plain = np.bincount(group, weights * (1 - truth))
    below = np.cumsum(plain) - plain
    total = strange.sum() * plain.sum()
    return float((strange * (below + plain / 2)).sum() / total) if total else float("nan")


def _spectrum(centred: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of the covariance in descending order and their directions [D, K]."""
    n, dimension = centred.shape
    if n >= dimension:
        values, vectors = np.linalg.eigh(centred.T @ centred / n)
        return np.maximum(values[::-1], 0), vectors[:, ::-1]
    # Fewer records than features: the same eigenvalues from the smaller product.
    values, left = np.linalg.eigh(centred @ centred.T / n)
    values, left = np.maximum(values[::-1], 0), left[:, ::-1]
    kept = values > max(values[0], _LEAST) * 1e-10
    vectors = centred.T @ left[:, kept] / np.sqrt(values[kept] * n)
    return values[kept], vectors


def _cut(
    values: Floats, directions: Floats, floor: float, *, dimension: int
) -> tuple[Floats, Floats, float]:
    """The largest eigenvalues, their directions, and the mean of all the others."""
    kept, left = values[:MOST_DIRECTIONS], values[MOST_DIRECTIONS:]
    n_rest = dimension - len(kept)
    rest = (left.sum() + floor * (dimension - len(values))) / n_rest if n_rest else floor
    return kept, directions[:, : len(kept)], max(float(rest), _LEAST)
