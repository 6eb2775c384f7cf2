"""Every example crosses a frozen network once, through the feature store: for what reads arrays."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tltf.data.batches import Batches
from tltf.data.cachefolder import cache_folder
from tltf.data.reading import reading
from tltf.spec import TransferSpec
from tltf.terminal import Bar
from tltf.training import features
from tltf.training.boundary import Boundary

Say = Callable[[str], None]


def crossing(
    cut: Boundary,
    parts: Mapping[str, Batches],
    spec: TransferSpec,
    *,
    say: Say,
    progress: bool,
) -> dict[str, tuple[np.ndarray, ...]]:
    """What crosses the boundary, float32, for every example of every part, unchanged.

    Args:
      cut: of a model whose flags are set.
      parts: name -> examples; all are read in the same way.
      spec: its ``cache`` and ``cache_dtype`` say where and how exactly rows are kept.
      say: told how many rows were computed, and how many were there.
      progress: draw a bar.
    """
    first = next(iter(parts.values()))
    with _store_folder(spec) as folder:
        store = features.opened_store(
            folder,
            cut,
            reading=reading(first),
            dtype=spec.cache_dtype,
            shapes=[first.row_shape(shape) for shape in cut.shapes],
        )
        compute, rows = features.compiled(cut.prefix), sum(data.n for data in parts.values())
        computed = 0
        with store.locked(), Bar("features", rows, unit="examples", shown=progress) as bar:
            for data in parts.values():
                computed += features.extract(store, compute, data, view=None, progress=bar.advance)
        say(f"cache: {cut}: {computed} rows computed, {rows - computed} found")
        return {
            name: tuple(np.asarray(a, np.float32) for a in store.gather(features.plain_keys(data)))
            for name, data in parts.items()
        }


@contextlib.contextmanager
def _store_folder(spec: TransferSpec) -> Iterator[Path]:
    if spec.cache == "off":
        with tempfile.TemporaryDirectory(prefix="tltf-features-") as folder:
            yield Path(folder)
    else:
        yield cache_folder() / "features" if spec.cache == "auto" else Path(spec.cache)
