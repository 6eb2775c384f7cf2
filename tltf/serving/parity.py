"""The gate before publishing: the SavedModel, reloaded elsewhere, must answer the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.errors import DataError

MAX_DIFFERENCE = 1e-4
EXAMPLES = 32


def check(
    servable: Path,
    signatures: dict[str, Callable[..., Any]],
    *,
    examples: Sequence[Path],
    image_size: int,
) -> float:
    """Compares ``servable`` in a fresh process with the live functions, twice.

    Args:
      servable: an unpublished SavedModel folder.
      signatures: the live functions it was written from.
      examples: image files, at most 32 of them are used, spread over the list.
      image_size: side of the random images that are used when there are no files.

    Returns:
      The largest absolute difference of any float output.

    Raises:
      DataError: an output differs by more than 1e-4, a label differs, or two calls differ.
    """
    data = _example_bytes(examples, image_size)
    expected = {
        key: np.asarray(value) for key, value in signatures["serving_default"](data).items()
    }
    answered = fresh_answers(servable, data)
    worst = 0.0
    for key, value in expected.items():
        for other in (answered[f"first/{key}"], answered[f"second/{key}"]):
            worst = max(worst, _difference(key, value, other, servable))
    return worst


def fresh_answers(servable: Path, data: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Answers of ``serving_default`` from a new process that imports only TensorFlow."""
    script = Path(__file__).with_name("fresh_process.py")
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        packed = np.frombuffer(b"".join(data), np.uint8)
        np.savez(inputs, packed=packed, lengths=np.array([len(item) for item in data]))
        done = subprocess.run(
            [sys.executable, "-I", str(script), str(servable), str(inputs), str(outputs)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(
                f"the exported SavedModel cannot be used in a fresh process: {last}",
                where=servable,
                kept="nothing was published",
                next_action="report this model to tltf",
            )
        with np.load(outputs, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}


def _example_bytes(examples: Sequence[Path], image_size: int) -> list[bytes]:
    if examples:
        step = max(1, len(examples) // EXAMPLES)
        return [path.read_bytes() for path in list(examples)[::step][:EXAMPLES]]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, image_size, image_size, 3), dtype=np.uint8)
    return [tf.io.encode_png(image).numpy() for image in images]


def _difference(key: str, value: np.ndarray, other: np.ndarray, servable: Path) -> float:
    if value.dtype.kind == "f" and value.shape == other.shape:
        worst = float(np.max(np.abs(value - other), initial=0.0))
        same = worst <= MAX_DIFFERENCE
    else:
        worst, same = 0.0, bool(np.array_equal(value.astype(other.dtype), other))
    if not same:
        raise DataError(
            f"the exported SavedModel answers differently: {key} by {worst:.2g},"
            f" expected at most {MAX_DIFFERENCE:g}",
            where=servable,
            kept="nothing was published",
            next_action="report this model to tltf",
        )
    return worst
