"""Keras 2 beside Keras 3 in one process: refused, since each breaks the other's models."""

from __future__ import annotations

import os
import sys

from tltf.errors import MismatchError

VARIABLE = "TF_USE_LEGACY_KERAS"
_OFF = ("", "0", "false", "False")


def refuse() -> None:
    """Raises MismatchError where ``tf_keras`` is imported or asked for; installed is fine."""
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
