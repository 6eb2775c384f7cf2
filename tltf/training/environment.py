"""What the run runs on, and the settings that follow from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tltf
from tltf.errors import ArgumentError
from tltf.recipes import Choice

VARIABLES = (
    "TF_DETERMINISTIC_OPS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS",
    "XLA_FLAGS", "TF_XLA_FLAGS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
VECTORS = ("avx", "amx", "fma", "sse4")
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def describe() -> dict[str, Any]:
    """The content of env.json: everything that the bits of a result depend on."""
    return {
        "tltf": tltf.__version__,
        "tltf_code": code_digest(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu_flags": cpu_flags(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def code_digest() -> str:
    """The first digits of a SHA-256 over the library's own source files."""
    state = hashlib.sha256()
    folder = Path(tltf.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        state.update(str(path.relative_to(folder)).encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def cpu_flags() -> str:
    """The vector instructions of the processor, which decide how sums are ordered."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("flags"):
                return " ".join(sorted(f for f in line.split() if f.startswith(VECTORS)))
    return platform.processor()


def may_probe(*, native: bool) -> bool:
    """Whether a measurement can tell more than the rules of :func:`choose_precision`."""
    return native and not tf.config.list_physical_devices("TPU") and not _gpus()


def choose_precision(asked: str, *, deterministic: bool = False) -> Choice:
    """By rule: float32 on CPU; on GPUs and TPUs with fast half precision, that."""
    if asked != "auto":
        return Choice("precision", asked, "as asked")
    if deterministic:
        return Choice("precision", "float32", "--deterministic: nothing is chosen by measurement")
    if tf.config.list_physical_devices("TPU"):
        return Choice("precision", "bfloat16", "TPUs multiply in bfloat16")
    gpus = _gpus()
    if not gpus:
        why = "no GPU, and the processor does not multiply bfloat16 (emulated it is slower)"
        return Choice("precision", "float32", why)
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
    if capability and capability >= (8, 0):
        return Choice("precision", "bfloat16", f"the GPU computes it natively {capability}")
    if capability and capability >= (7, 0):
        return Choice("precision", "float16", f"the GPU has float16 tensor cores {capability}")
    return Choice("precision", "float32", f"the GPU has no fast half precision {capability}")


def choose_jit(asked: str, model: keras.Model) -> Choice:
    """XLA on GPU where every layer supports it; never by itself on CPU (FACTS 9.1)."""
    if asked != "auto":
        return Choice("jit", asked, "as asked")
    if not tf.config.list_physical_devices("GPU"):
        return Choice("jit", "off", "XLA makes depthwise convolutions on CPU many times slower")
    layers = model._flatten_layers()  # seam: Layer._flatten_layers
    if all(layer.supports_jit for layer in layers):
        return Choice("jit", "on", "every layer supports XLA")
    return Choice("jit", "off", "a layer does not support XLA")


def _gpus() -> list[Any]:
    return list(tf.config.list_physical_devices("GPU"))


@contextlib.contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Layers made inside the block compute in ``precision``; weights stay float32.

    Raises:
      ArgumentError: not one of float32, bfloat16, float16.
    """
    if precision not in POLICIES:
        raise ArgumentError(
            f"precision={precision!r}, expected one of {', '.join(POLICIES)}", where="--precision"
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """TensorFlow's deterministic ops while the block runs; they cannot be switched off later."""
    if wanted:
        tf.config.experimental.enable_op_determinism()
    yield
