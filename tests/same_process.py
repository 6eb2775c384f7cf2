"""The gate without the seconds that fresh processes take to import TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tltf.serving.predicting import as_arrays


def in_this_process(servable: Path, key: str, data: Sequence[bytes]) -> dict[str, Any]:
    """What the fresh processes find, without the seconds that they take to import TensorFlow."""
    answer = tf.saved_model.load(str(servable)).signatures["serving_default"]
    calls = ("first call", "second call")
    return {call: as_arrays(answer(**{key: tf.constant(list(data))})) for call in calls}
