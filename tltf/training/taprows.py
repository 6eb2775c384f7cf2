"""The taps of examples, each computed once: from the FeatureStore, or kept in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from tltf.backbones.network import Backbone
from tltf.data.batches import Batches
from tltf.data.reading import reading
from tltf.errors import StorageError
from tltf.models import heads
from tltf.models.classifier import classifier
from tltf.models.taps import Tap, tapped
from tltf.terminal import Bar
from tltf.training import boundary as boundaries
from tltf.training import features, stored
from tltf.training.boundary import Boundary
from tltf.training.caching import EXACT, FREE_SHARE, Cache
from tltf.training.features import megabytes
from tltf.training.featurestore import FeatureStore, free_bytes

Floats = NDArray[np.float32]
BYTES = 4


class TapRows:
    """What the taps of a frozen network say of examples, in float32.

    Args:
      network: the backbone, as it is before anything is trained.
      taps: whose numbers stand side by side in a row, in this order.
      cache: where rows are kept for this and later runs; None keeps them in memory only.
      progress: draw a bar while rows are computed.
    """

    def __init__(
        self, network: Backbone, taps: Sequence[Tap], *, cache: Cache | None, progress: bool
    ) -> None:
        self.taps, self.cache, self.progress = tuple(taps), cache, progress
        frozen = tapped(network, taps)
        frozen.trainable = False
        self._boundary: Boundary | None = boundaries.split(classifier(frozen, heads.head(1)))
        self._compute = features.compiled(keras.Model(frozen.input, [frozen.output]))
        self._memory: dict[tuple[str, ...], Floats] = {}

    @property
    def width(self) -> int:
        """Numbers of an example."""
        return sum(tap.width for tap in self.taps)

    def __call__(self, data: Batches) -> Floats:
        """``[n, D]`` in the order of the records."""
        keys = tuple(features.job_keys(data, None))
        named = data.hashed
        if named and keys in self._memory:
            return self._memory[keys]
        store = self._store(data) if named else None
        rows = self._passed(data) if store is None else self._stored(store, data, keys)
        if named:
            self._memory[keys] = rows
        return rows

    def columns(self, rows: Floats) -> dict[str, Floats]:
        """Tap name -> ``[n, width]`` of rows."""
        ends = np.cumsum([tap.width for tap in self.taps])
        return {
            tap.name: rows[:, end - tap.width : end]
            for tap, end in zip(self.taps, ends, strict=True)
        }

    def _store(self, data: Batches) -> FeatureStore | None:
        """The store of these taps, if there is a cache with room."""
        cache, cut = self.cache, self._boundary
        if cache is None or cut is None:
            return None
        try:
            store = features.opened_store(
                cache.folder, cut, reading=reading(data), dtype=EXACT, shapes=cut.shapes
            )
            need = store.row_bytes * len(store.missing(features.job_keys(data, None)))
            if min(cache.cap_bytes, FREE_SHARE * free_bytes(cache.folder)) < need:
                cache.say(
                    f"cache: off for the taps: {megabytes(need)} of features, with"
                    f" {megabytes(free_bytes(cache.folder))} free on the disk and"
                    f" {megabytes(cache.cap_bytes)} allowed"
                )
                return None
        except (OSError, StorageError) as error:
            cache.say(f"cache: off for the taps: {error}")
            return None
        return store

    def _stored(self, store: FeatureStore, data: Batches, keys: Sequence[str]) -> Floats:
        started, cache = time.monotonic(), self.cache
        with store.locked():
            missing = len(store.missing(keys))
            if missing:
                with self._bar(missing) as bar:
                    features.extract(store, self._compute, data, view=None, progress=bar.advance)
        if cache is not None:
            distinct = len(set(keys))
            cache.say(
                f"taps: {self.width:,} numbers an example ({self.width * BYTES / 1000:.0f} KB);"
                f" {missing} examples crossed the network in {time.monotonic() - started:.1f} s,"
                f" {distinct - missing} were found"
            )
            stored.evict(cache.folder, cap_bytes=cache.cap_bytes, keep=store.folder)
        [rows] = store.gather(keys)
        return rows

    def _passed(self, data: Batches) -> Floats:
        """One pass without a store."""
        found = []
        with self._bar(data.n) as bar, data.naming_unreadable():
            for x, _, weight in data.eval_dataset():
                [rows] = self._compute(x)
                found.append(np.asarray(rows, np.float32))
                bar.advance(len(weight))
        return np.concatenate(found)

    def _bar(self, count: int) -> Bar:
        return Bar("features", count, unit="examples", shown=self.progress)
