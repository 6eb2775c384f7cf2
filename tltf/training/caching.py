"""Whether a phase trains on stored features, decided by space and use, and said."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from tltf.data.batches import Batches
from tltf.data.columns import Rows
from tltf.data.manifest import Record
from tltf.data.reading import reading
from tltf.errors import StorageError
from tltf.models.classifier import backbone_of
from tltf.spec import Phase
from tltf.terminal import Bar
from tltf.training import boundary as boundaries
from tltf.training import features, freezing, gain, stored
from tltf.training.boundary import Boundary
from tltf.training.featureepochs import FeatureData, FeatureEpochs, eval_features
from tltf.training.features import Compute, megabytes
from tltf.training.featurestore import FeatureStore, free_bytes

Say = Callable[[str], None]
Part = Callable[[Any], Sequence[Any]]
Job = tuple[Batches, int | None]
"""One pass over examples: of an augmented view, or unchanged (None)."""

FREE_SHARE = 0.5
CAP_BYTES = 50_000_000_000
EXACT = "float32"
"""Of rows that are measured on: what is reported is what the whole model answers."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where features are kept, how exactly, and who is told.

    Args:
      folder: made with its parents if absent.
      dtype: of the training rows, one of :data:`tltf.spec.CACHE_DTYPES`; validation and test
        rows are float32.
      cap_bytes: of all prefixes together; the longest unused go first.
      always: store even where it does not pay.
      say: receives one sentence for each decision.
    """

    folder: Path
    dtype: str = "float16"
    cap_bytes: int = CAP_BYTES
    always: bool = False
    say: Say = logging.info


@dataclass(frozen=True, kw_only=True)
class CachedPhase:
    """A phase on stored features: the boundary, and what its tail trains on."""

    boundary: Boundary
    data: FeatureData


class PhaseCache:
    """Stored features for the phases of one model.

    A phase that trains only the head wants pooled features, a later one the maps at its own
    boundary, below. Then both are kept of one pass, so that each view of each image crosses the
    frozen network once. The pooled ones come from the maps as they were computed, never from
    those that were stored in fewer bits: a row is the same by every route.

    Args:
      cache: where and how.
      model: the whole model; its ``trainable`` flags are changed here, so phases are entered
        afterwards.
      plan: all phases, to know the lowest boundary.
      train, validation: the examples.
      progress: draw a bar while features are computed.
    """

    def __init__(
        self,
        cache: Cache,
        model: keras.Model,
        *,
        plan: Sequence[Phase],
        train: Batches,
        validation: Batches,
        progress: bool = True,
    ) -> None:
        self.cache, self.model, self.plan = cache, model, tuple(plan)
        self.train, self.validation = train, validation
        self.progress = progress
        cuts = _boundaries(model, plan)
        self.lower = _lowest(cuts)
        self.decision = gain.decide(cuts, views=max(1, train.views))
        self._using = False

    def phase(self, phase: Phase) -> CachedPhase | None:
        """The stored features of ``phase``, whose flags are set; None to train on images."""
        if not self.train.views and features.is_augmented(self.train):
            return self._off(phase.name, "views=0 makes new images every epoch")
        cut = boundaries.split(self.model) if phase.epochs else None
        if cut is None:
            return None
        views = range(max(1, self.train.views))
        jobs: list[Job] = [(self.train, view) for view in views]
        stores = self._stores(cut, phase.name, [*jobs, (self.validation, None)])
        if stores is None:
            return None
        data = FeatureData(
            train=FeatureEpochs(self.train, stores[self.cache.dtype], shapes=cut.shapes),
            validation=eval_features(self.validation, stores[EXACT], shapes=cut.shapes),
        )
        self._using = True
        return CachedPhase(boundary=cut, data=data)

    def logits(self, data: Batches) -> np.ndarray | None:
        """float32 ``[n, C]`` for the unchanged examples by way of stored rows.

        The prefix of the last phase is frozen through its whole training, so what a later run
        with another head asks for is there. None when features are not kept.
        """
        found = self._at_last_cut(data, view=None)
        return None if found is None else _answered(found[0].tail, found[1])

    def pooled(self, data: Batches) -> np.ndarray | None:
        """As :meth:`logits`, the pooled features ``[n, D]`` of the model as it is now."""
        return _pooled(self._at_last_cut(data, view=None))

    def pooled_as_trained(self, records: Sequence[Record]) -> np.ndarray | None:
        """As :meth:`pooled`, of training examples in the first view that was trained on.

        Those rows are there already, so no example crosses the network once more.
        """
        return _pooled(self._at_last_cut(self.train.with_records(records), view=0))

    @functools.cached_property
    def _last(self) -> _LastCut | None:
        """Of the last phase, asked for when it has ended; None where nothing is frozen."""
        last = next(p for p in reversed(self.plan) if p.epochs and p.unfreeze)
        freezing.set_trainable(self.model, str(last.unfreeze), batch_norm=last.batch_norm)
        cut = boundaries.split(self.model)
        return None if cut is None else _LastCut(self.model, cut)

    def _at_last_cut(self, data: Batches, *, view: int | None) -> tuple[_LastCut, Any] | None:
        """The last phase's boundary, and the examples as they cross it."""
        last = self._last if self._using else None
        stores = self._stores(last.cut, "the answers", [(data, view)]) if last else None
        if last is None or stores is None:
            return None
        store = stores[self._dtype(view)]
        return last, eval_features(data, store, shapes=last.cut.shapes, view=view)

    def _off(self, name: str, why: str) -> None:
        self.cache.say(f"cache: off for {name}: {why}")

    def _stores(
        self, cut: Boundary, name: str, jobs: Sequence[Job]
    ) -> dict[str, FeatureStore] | None:
        """The stores of ``cut`` by dtype with the rows of all jobs; None, and said, if not."""
        if not all(batches.hashed for batches, _ in jobs):
            return self._off(name, "examples whose content was not hashed")
        try:
            stores = self._opened(cut)
            if why := self._beyond(stores, jobs):
                return self._off(name, why)
            # Whatever is stored already: a full cache and an empty one give the same weights.
            if not (self.decision.pays or self.cache.always):
                return self._off(name, self.decision.reason)
            missing = _missing(stores, jobs, self.cache.dtype)
            need = sum(stores[dtype].row_bytes * n for dtype, n in missing.items())
            if self.cache.cap_bytes < need or FREE_SHARE * free_bytes(self.cache.folder) < need:
                free = megabytes(free_bytes(self.cache.folder))
                allowed = megabytes(self.cache.cap_bytes)
                why = f"{megabytes(need)} of features, with {free} free on the disk"
                return self._off(name, f"{why} and {allowed} allowed")
            self._fill(cut, stores, jobs)
            stored.evict(
                self.cache.folder, cap_bytes=self.cache.cap_bytes, keep=stores[EXACT].folder
            )
        except (OSError, StorageError) as error:
            return self._off(name, str(error))
        return stores

    def _beyond(self, stores: dict[str, FeatureStore], jobs: Sequence[Job]) -> str:
        """Why rows of an index do not even have to be counted, or an empty text."""
        need = sum(
            stores[self._dtype(view)].row_bytes * data.n
            for data, view in jobs if isinstance(data.records, Rows)
        )  # fmt: skip
        allowed = self.cache.cap_bytes
        if need <= allowed:
            return ""
        return f"{megabytes(need)} of features, with {megabytes(allowed)} allowed"

    def _opened(self, cut: Boundary) -> dict[str, FeatureStore]:
        shapes = [self.train.row_shape(shape) for shape in cut.shapes]
        return features.opened_stores(
            self.cache.folder,
            cut,
            reading=reading(self.train),
            dtypes=(self.cache.dtype, EXACT),
            shapes=shapes,
        )

    def _fill(self, cut: Boundary, stores: dict[str, FeatureStore], jobs: Sequence[Job]) -> None:
        started = time.monotonic()
        with ExitStack() as locks:
            route = self._route(cut, stores)
            for by_dtype, _ in route:
                for store in by_dtype.values():
                    locks.enter_context(store.locked())
            count = sum(_missing(stores, jobs, self.cache.dtype).values())
            if count:
                with Bar("features", count, unit="examples", shown=self.progress) as bar:
                    for batches, view in jobs:
                        steps = [(x[self._dtype(view)], compute()) for x, compute in route]
                        features.extract_through(steps, batches, view=view, progress=bar.advance)
        rows = len({key for job in jobs for key in features.job_keys(*job)})
        unit = "a token" if any(None in shape for shape in cut.shapes) else "an example"
        self.cache.say(
            f"cache: {cut}, {cut.values * 2 / 1000:.1f} KB {unit} in half precision, saves"
            f" {cut.share:.0%} of the forward pass: {count} rows computed in"
            f" {time.monotonic() - started:.1f} s, {rows - count} found,"
            f" {' and '.join(stores)}"
        )

    def _route(
        self, cut: Boundary, stores: dict[str, FeatureStore]
    ) -> list[tuple[dict[str, FeatureStore], Callable[[], Compute]]]:
        """From the examples to ``cut``, by way of the maps of a later phase if there are some."""
        if not cut.pooled or self.lower is None:
            return [(stores, _once(cut.prefix))]
        above = boundaries.pooled_above(self.model, self.lower)
        return [
            (self._opened(self.lower), _once(self.lower.prefix)),
            (stores, _once(above)),
        ]

    def _dtype(self, view: int | None) -> str:
        return EXACT if view is None else self.cache.dtype


class _LastCut:
    """The parts of a trained model above the boundary of its last phase, each traced once."""

    def __init__(self, model: keras.Model, cut: Boundary) -> None:
        self._model, self.cut = model, cut

    @functools.cached_property
    def tail(self) -> Part:
        """From what crosses to logits."""
        return features.compiled(self.cut.tail)

    @functools.cached_property
    def pooled_above(self) -> Part:
        """From what crosses to pooled features."""
        return features.compiled(boundaries.pooled_above(self._model, self.cut))


def _once(model: keras.Model) -> Callable[[], Compute]:
    """The model as a function, made when it is wanted first."""
    return functools.cache(lambda: features.compiled(model))


def _pooled(found: tuple[_LastCut, Any] | None) -> np.ndarray | None:
    if found is None:
        return None
    last, rows = found
    if last.cut.pooled:
        return np.concatenate([np.asarray(x[0]) for x, _, _ in rows])
    return _answered(last.pooled_above, rows)


def _answered(part: Part, rows: Any) -> np.ndarray:
    """float32 ``[n, ...]``: a part of the model on what crosses into it."""
    return np.concatenate([np.asarray(part(list(x))[0]) for x, _, _ in rows])


def _missing(stores: dict[str, FeatureStore], jobs: Sequence[Job], dtype: str) -> dict[str, int]:
    """Rows that are not there yet, by dtype; none of a dtype is left out."""
    keys: dict[str, list[str]] = {}
    for batches, view in jobs:
        keys.setdefault(EXACT if view is None else dtype, []).extend(
            features.job_keys(batches, view)
        )
    counts = {name: len(stores[name].missing(wanted)) for name, wanted in keys.items()}
    return {name: count for name, count in counts.items() if count}


def _boundaries(model: keras.Model, plan: Sequence[Phase]) -> list[tuple[Phase, Boundary | None]]:
    """Each phase that trains, and its boundary; flags are left as the last one's."""
    found: list[tuple[Phase, Boundary | None]] = []
    for phase in plan:
        if phase.epochs and phase.unfreeze is not None and backbone_of(model) is not None:
            freezing.set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)
            found.append((phase, boundaries.split(model)))
    return found


def _lowest(cuts: Sequence[tuple[Phase, Boundary | None]]) -> Boundary | None:
    """Of the phases that tune, the boundary with the smallest frozen prefix."""
    tuned = [cut for phase, cut in cuts if phase.unfreeze != "none"]
    if not tuned or any(cut is None for cut in tuned):
        return None
    return min((cut for cut in tuned if cut), key=lambda cut: len(cut.prefix.variables))
