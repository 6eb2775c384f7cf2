"""Photos of noise that can be painted over, and their records as a scan gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tltf.data.manifest import Manifest, Record
from tltf.data.scan import scan

SIDE, N = 8, 9


def painted(folder: Path, *, seed: int) -> list[Path]:
    """Small pictures of noise under the same names; another seed paints all of them over."""
    random = np.random.default_rng(seed)
    paths = [folder / f"{i}.png" for i in range(N)]
    for path in paths:
        keras.utils.save_img(path, random.integers(0, 255, (SIDE, SIDE, 3)), scale=False)
    return paths


def scanned(paths: Sequence[Path]) -> Sequence[Record]:
    """With the hashes of now."""
    records = tuple(
        Record(id=path.name, path=str(path), label="ab"[i % 2]) for i, path in enumerate(paths)
    )
    listed = Manifest(task="single_label", classes=("a", "b"), records=records)
    return scan(listed, max_image_pixels=10**6).records
