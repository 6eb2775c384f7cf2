"""Which Keras this process has: version 3 on TensorFlow. Keras 2 beside it is refused, since each
breaks the other's models; so is a Keras that was imported on another backend."""

from __future__ import annotations

import os
import sys

from tltf.errors import MismatchError

VARIABLE = "TF_USE_LEGACY_KERAS"
BACKEND = "KERAS_BACKEND"
TENSORFLOW = "tensorflow"
_OFF = ("", "0", "false", "False")


def choose_backend() -> None:
    """TensorFlow for a Keras that is imported from now on, whatever keras.json or the shell say.

    Keras reads the variable once, when it is imported first; tltf's models are of TensorFlow.
    """
    if "keras" not in sys.modules:
        os.environ[BACKEND] = TENSORFLOW


def refuse() -> None:
    """Raises MismatchError where Keras 2 is imported or asked for (installed is fine), or where
    Keras 3 was imported on another backend."""
    if os.environ.get(VARIABLE, "") not in _OFF:
        raise MismatchError(
            f"{VARIABLE} is set, which puts Keras 2 in the place of Keras 3",
            where="environment",
            next_action=f"unset {VARIABLE}",
        )
    if "tf_keras" in sys.modules:
        raise MismatchError(
            "tf_keras (Keras 2) is imported in this process, and its models are not Keras 3's",
            where="imported modules",
            next_action="use tltf in a process without tf_keras (tensorflow_hub imports it too)",
        )
    config = getattr(sys.modules.get("keras"), "config", None)
    if config is not None and config.backend() != TENSORFLOW:
        raise MismatchError(
            f"Keras was imported on {config.backend()} before tltf, whose models are TensorFlow's",
            where="imported modules",
            next_action=f"import tltf before keras, or set {BACKEND}={TENSORFLOW}",
        )
