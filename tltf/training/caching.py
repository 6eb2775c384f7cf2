"""Whether a phase trains on stored features, decided by space and use, and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
from absl import logging

from tltf.data.batches import Batches
from tltf.errors import StorageError
from tltf.spec import Phase
from tltf.terminal import Bar
from tltf.training import boundary as boundaries
from tltf.training import features, freezing
from tltf.training.boundary import Boundary
from tltf.training.features import FeatureData, FeatureEpochs
from tltf.training.featurestore import FeatureStore, evict, free_bytes

Say = Callable[[str], None]

FREE_SHARE = 0.5
CAP_BYTES = 50_000_000_000


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Where features are kept, how exactly, and who is told.

    Args:
      folder: made with its parents if absent.
      dtype: ``float16`` or ``float32``, as stored.
      cap_bytes: of all prefixes together; the longest unused go first.
      say: receives one sentence for each decision.
    """

    folder: Path
    dtype: str = "float16"
    cap_bytes: int = CAP_BYTES
    say: Say = logging.info


@dataclass(frozen=True, kw_only=True)
class CachedPhase:
    """A phase on stored features: the boundary, and what its tail trains on."""

    boundary: Boundary
    data: FeatureData


class PhaseCache:
    """Stored features for the phases of one model.

    A phase that trains only the head wants pooled features, a later one the maps at its own
    boundary, below. Then the maps are computed first and the pooled features from them, so
    that each view of each image crosses the frozen network once.

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
        self.cache, self.model = cache, model
        self.train, self.validation = train, validation
        self.progress = progress
        self.lower = _lowest(model, plan)

    def phase(self, phase: Phase) -> CachedPhase | None:
        """The stored features of ``phase``, whose flags are set; None to train on images."""
        if not self.train.views and features.is_augmented(self.train):
            self.cache.say(f"cache: off for {phase.name}: views=0 makes new images every epoch")
            return None
        cut = boundaries.split(self.model) if phase.epochs else None
        if cut is None:
            return None
        free = free_bytes(self.cache.folder)
        need = features.rows_bytes(cut, n=self._rows, dtype=self.cache.dtype)
        if need > min(FREE_SHARE * free, self.cache.cap_bytes):
            self.cache.say(
                f"cache: off for {phase.name}: {features.megabytes(need)} of features, with"
                f" {features.megabytes(free)} free on the disk"
            )
            return None
        try:
            store = self._filled(cut, phase.name)
        except (OSError, StorageError) as error:
            self.cache.say(f"cache: off for {phase.name}: {error}")
            return None
        evict(self.cache.folder, cap_bytes=self.cache.cap_bytes, keep=store.folder)
        data = FeatureData(
            train=FeatureEpochs(self.train, store),
            validation=features.eval_features(self.validation, store),
        )
        return CachedPhase(boundary=cut, data=data)

    @property
    def _rows(self) -> int:
        return self.train.n * max(1, self.train.views) + self.validation.n

    def _filled(self, cut: Boundary, name: str) -> FeatureStore:
        """The store of ``cut`` with every row that the run reads."""
        store = features.opened_store(
            self.cache.folder, cut, image_size=self.train.image_size, dtype=self.cache.dtype
        )
        started = time.monotonic()
        with store.locked():
            missing = len(store.missing(features.run_keys(self.train, self.validation)))
            if missing and cut.pooled and self.lower is not None:
                below = self._filled(self.lower, name)
                compute = features.compiled(boundaries.pooled_above(self.model, self.lower))
                keys = features.run_keys(self.train, self.validation)
                features.extract_from(below, store, compute, keys=keys)
            elif missing:
                self._extract(store, cut, missing)
        self.cache.say(
            f"cache: {cut}: {missing} rows computed in {time.monotonic() - started:.1f} s,"
            f" {self._rows - missing} found, {self.cache.dtype}"
        )
        return store

    def _extract(self, store: FeatureStore, cut: Boundary, missing: int) -> None:
        compute = features.compiled(cut.prefix)
        with Bar("features", missing, unit="images", shown=self.progress) as bar:
            for view in range(max(1, self.train.views)):
                features.extract(store, compute, self.train, view=view, progress=bar.advance)
            features.extract(store, compute, self.validation, view=None, progress=bar.advance)


def _lowest(model: keras.Model, plan: Sequence[Phase]) -> Boundary | None:
    """Of the phases that tune, the boundary with the smallest frozen prefix."""
    found = []
    for phase in plan:
        if phase.epochs and phase.unfreeze not in (None, "none"):
            freezing.set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)
            found.append(boundaries.split(model))
    if not found or any(cut is None for cut in found):
        return None
    return min(found, key=lambda cut: len(cut.prefix.variables))
