"""What the run runs on, and the settings that follow from it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tltf.errors import ArgumentError
from tltf.recipes import Choice

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def describe() -> dict[str, Any]:
    """The content of env.json: everything that the bits of a result depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def choose_precision(asked: str) -> Choice:
    """float32 on CPU; on GPUs and TPUs with fast half precision, that."""
    if asked != "auto":
        return Choice("precision", asked, "as asked")
    if tf.config.list_physical_devices("TPU"):
        return Choice("precision", "bfloat16", "TPUs multiply in bfloat16")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Choice("precision", "float32", "no GPU; half precision on CPUs is seldom faster")
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
