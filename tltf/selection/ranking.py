"""Which backbone: candidates measured on the same examples, sorted, and ties called ties.

Everything is measured on examples of the training and validation splits by cross-validation;
the test split has no part in it, so that it can still judge what is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tltf.data.manifest import Manifest, Record
from tltf.errors import DataError
from tltf.evaluation import verdict
from tltf.evaluation.intervals import wilson
from tltf.selection import chance, depth, probing, scores
from tltf.selection.candidates import RANDOM, Candidate, by_backbone

FEW = 10
SAMPLE = 2000

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one pass through a backbone gave, and what it costs to use.

    Args:
      features: block -> ``[n, D]``, bottom to top.
      probabilities: of the source classifier ``[n, Z]``, where there is one.
      parameters: number of weights.
      megabytes: of the weights in float32.
      gigaflops: of one example, multiplications and additions; None where not countable.
      milliseconds: of one example on this machine, median.
      pass_seconds: wall time of the pass.
    """

    features: Mapping[str, NDArray[np.floating]]
    parameters: int
    milliseconds: float
    pass_seconds: float
    gigaflops: float | None = None
    probabilities: NDArray[np.floating] | None = None

    @property
    def megabytes(self) -> float:
        """Of the weights, in float32."""
        return 4e-6 * self.parameters


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate of the table; ``hits`` says which examples its probe got right."""

    name: str
    probe: float
    low: float
    high: float
    n: int
    neighbours: float
    class_mean: float
    logme: float
    h_score: float
    nce: float | None
    leep: float | None
    features: int
    parameters: int
    megabytes: float
    gigaflops: float | None
    milliseconds: float
    pass_seconds: float
    place: int = 0
    ties_with_best: bool = False
    pareto: bool = False
    hits: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON, without ``hits``."""
        found = asdict(self)
        del found["hits"]
        return found


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The table, best first, the depth curves, and what a person should know about them."""

    rows: tuple[Row, ...]
    curves: dict[str, depth.Curve]
    not_measured: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """``rank.json``."""
        return {
            "candidates": [row.as_dict() for row in self.rows],
            "depth": {name: curve.as_dict() for name, curve in self.curves.items()},
            "not_measured": list(self.not_measured),
            "notes": list(self.notes),
        }


def rank(
    chosen: Sequence[Candidate],
    labels: NDArray[np.int64],
    *,
    measure: Callable[[str, str], Measured],
    budget_seconds: float | None = None,
    seed: int = 0,
    say: Say = lambda _: None,
) -> Ranking:
    """Measures the candidates in the order given and sorts them by their linear probe.

    Args:
      chosen: what to compare; candidates of one backbone cost one pass together.
      labels: class indices ``[n]`` of the examples that ``measure`` passes through.
      measure: ``(backbone, weights)`` to what one pass of those examples gives.
      budget_seconds: no further backbone is begun after this time; None for no limit.
      seed: of the folds.
      say: receives a sentence per candidate.

    Raises:
      DataError: a class with a single example.
    """
    started, rows, curves, left = time.monotonic(), [], {}, []
    kept: dict[str, list[NDArray[np.floating]]] = {"features": [], "probabilities": []}
    for (backbone, weights), group in by_backbone(chosen).items():
        if budget_seconds is not None and time.monotonic() - started > budget_seconds:
            left += [candidate.name for candidate in group]
            continue
        found = measure(backbone, weights)
        for candidate in group:
            rows.append(_row(candidate, found, labels, seed))
            kept["features"].append(depth.block(found.features, candidate.block))
            say(f"{candidate.name}: probe {rows[-1].probe:.3f}")
        if found.probabilities is not None:
            kept["probabilities"].append(found.probabilities)
        if weights != "none":
            curves[backbone] = depth.curve(found.features, labels, seed=seed)
    rows = _sorted(rows)
    notes = _notes(rows, labels, left, budget_seconds)
    if rows and _at_chance(rows[0], labels):
        silent = chance.silent(kept["features"], labels, probabilities=kept["probabilities"],
                               seed=seed)  # fmt: skip
        notes.append(_nothing(silent))
    return Ranking(
        rows=tuple(rows),
        curves=curves,
        not_measured=tuple(left),
        notes=tuple(notes),
    )


def sampled(manifest: Manifest, *, most: int = SAMPLE, seed: int = 0) -> tuple[Record, ...]:
    """A stratified sample of the training and validation records, in the manifest's order.

    Raises:
      DataError: not a single-label set of images.
    """
    if manifest.task != "single_label":
        raise DataError(
            f"a {manifest.task} set, the scores compare classes",
            where="--data",
            next_action="rank with a single-label set of the same pictures",
        )
    if manifest.records and manifest.records[0].path is None:
        raise DataError(
            "the data are texts, and tltf rank measures backbones of images",
            where="--data",
            next_action="train with each backbone of texts, then tltf compare RUN1 RUN2",
        )
    records = [record for record in manifest.records if record.split in ("train", "val")]
    if len(records) <= most:
        return tuple(records)
    share, rng, kept = most / len(records), np.random.default_rng(seed), []
    labels = np.array([str(record.label) for record in records])
    for name in manifest.classes:
        at = np.flatnonzero(labels == name)
        count = min(len(at), max(2, round(share * len(at))))
        kept += rng.permutation(at)[:count].tolist()
    return tuple(records[i] for i in sorted(kept))


def _row(candidate: Candidate, found: Measured, labels: NDArray[np.int64], seed: int) -> Row:
    features = depth.block(found.features, candidate.block)
    hits = probing.linear_probe_hits(features, labels, seed=seed)
    low, high = wilson(float(hits.sum()), len(hits))
    # What a whole network says of its source classes is nothing that a truncation knows.
    source = found.probabilities if candidate.block is None else None
    return Row(
        name=candidate.name,
        probe=float(hits.mean()),
        low=low,
        high=high,
        n=len(hits),
        neighbours=float(probing.neighbour_hits(features, labels, seed=seed).mean()),
        class_mean=float(probing.class_mean_hits(features, labels, seed=seed).mean()),
        logme=scores.logme(features, labels),
        h_score=scores.h_score(features, labels),
        nce=None if source is None else scores.nce(source.argmax(axis=1), labels),
        leep=None if source is None else scores.leep(source, labels),
        features=features.shape[1],
        parameters=found.parameters,
        megabytes=found.megabytes,
        gigaflops=found.gigaflops,
        milliseconds=found.milliseconds,
        pass_seconds=found.pass_seconds,
        hits=hits,
    )


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """Best first, with places, ties with the best by a paired interval, and the Pareto front."""
    ordered = sorted(rows, key=lambda row: (-row.probe, row.milliseconds))
    result = []
    for place, row in enumerate(ordered, start=1):
        found = verdict.compare(ordered[0].hits, row.hits)
        fastest_so_far = all(
            other.milliseconds > row.milliseconds for other in ordered[: place - 1]
        ) and not row.name.endswith(f"@{RANDOM}")
        values = {**row.__dict__, "place": place, "pareto": fastest_so_far}
        result.append(Row(**{**values, "ties_with_best": found.kind == verdict.NO_DIFFERENCE}))
    return result


def _notes(
    rows: Sequence[Row],
    labels: NDArray[np.int64],
    left: Sequence[str],
    budget_seconds: float | None,
) -> list[str]:
    notes = []
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    if smallest < FEW:
        notes.append(
            f"the smallest class has {smallest} examples: with fewer than {FEW} a class this"
            " ranking is mostly noise"
        )
    if left:
        notes.append(f"the budget of {budget_seconds:g} s ended before {', '.join(left)}")
    ties = [row.name for row in rows if row.ties_with_best]
    if len(ties) > 1 and not _at_chance(rows[0], labels):
        fastest = min((row for row in rows if row.ties_with_best), key=lambda r: r.milliseconds)
        notes.append(
            f"{len(ties)} candidates are tied with the best on these {rows[0].n} examples;"
            f" the fastest of them is {fastest.name}"
        )
    return notes


def _nothing(silent: Mapping[str, bool]) -> str:
    """What the probe and the other scores say of labels that the probe cannot learn."""
    sentence = "nothing to choose: the best candidate is no better than the majority class"
    others = [name for name, nothing in silent.items() if not nothing]
    if others:
        return f"{sentence}; but {' and '.join(others)} can tell these labels from shuffled ones"
    return f"{sentence}, and {', '.join(silent)} cannot tell these labels from shuffled ones"


def _at_chance(best: Row, labels: NDArray[np.int64]) -> bool:
    """Whether the best probe cannot be told from always saying the most frequent class."""
    majority = labels == np.bincount(labels).argmax()
    return verdict.compare(best.hits, majority).kind != verdict.HELPS
