"""Which precision is faster here: the actual backbone on real images, once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.errors import TltfError
from tltf.recipes import Choice
from tltf.training.environment import precision_policy

FASTER, ALIKE = 1.1, 0.999
"""bfloat16 is taken when this many times as fast, and this cosine of features holds at least."""
REPEATS = 2
IMAGES = 6
"""Enough for the ratio of two precisions, which does not depend on the batch."""
SHORT = 0.005
"""Seconds: where one pass takes less, the clock's noise would choose."""

Network = Callable[[], keras.Model]


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; emulated, it is many times slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16"))


def probed_precision(
    build: Network, images: tf.Tensor, *, what: Mapping[str, Any], remembered: Path | None
) -> Choice:
    """float32 or bfloat16, measured and remembered.

    Args:
      build: makes the backbone under the precision policy in force.
      images: real ones, as in training: noise has features unlike any photo's.
      what: names the backbone for the memory: name, weights, size, batch.
      remembered: a JSON file that is read first and extended; None to measure anew.
    """
    key = hashlib.sha256(json.dumps([machine(), dict(what)], sort_keys=True).encode()).hexdigest()
    known = _read(remembered)
    if key in known:
        found = known[key]
        return Choice("precision", found["value"], f"{found['reason']} (measured before)")
    found = _measured(build, images)
    if remembered is not None:
        with contextlib.suppress(TltfError, OSError):
            storage.write_json(remembered, {**_read(remembered), key: found})
    return Choice("precision", found["value"], found["reason"])


def machine() -> list[Any]:
    """What the speed of arithmetic depends on."""
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default")
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return [platform.machine(), model, os.cpu_count(), onednn, threads, tf.__version__,
            keras.__version__, native_bfloat16()]  # fmt: skip


def _measured(build: Network, images: tf.Tensor) -> dict[str, Any]:
    images = images[:IMAGES]
    exact, seconds = _passes("float32", build, images)
    if seconds < SHORT:
        reason = f"a pass over {len(images)} images takes {1000 * seconds:.1f} ms: nothing to gain"
        return {"value": "float32", "reason": reason}
    rough, half = _passes("bfloat16", build, images)
    times, cosine = seconds / half, least_cosine(exact, rough)
    taken = times >= FASTER and cosine >= ALIKE
    reason = f"bfloat16 is {times:.2f} times as fast as float32 here, least cosine {cosine:.5f}"
    return {"value": "bfloat16" if taken else "float32", "reason": reason}


def _passes(precision: str, build: Network, images: tf.Tensor) -> tuple[np.ndarray, float]:
    """The features float32, and the seconds of one pass once it is traced."""
    with precision_policy(precision):
        network = build()
    forward = tf.function(lambda x: network(x, training=False))
    features = np.asarray(tf.cast(forward(images), tf.float32))
    return features, min(_seconds(forward, images) for _ in range(REPEATS))


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between the features of one example in two precisions."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min((a * b).sum(axis=1) / np.maximum(norms, 1e-30)))


def _seconds(forward: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> float:
    started = time.perf_counter()
    np.asarray(forward(images)[:1])
    return time.perf_counter() - started


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
