"""What determines the pixels that a record gives, for the key of stored features."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from tltf.data import augmentation, characters, decoding, graph_headers, textbatches, wordpiece
from tltf.data.batches import Batches, derived_seed


def reading(batches: Batches) -> dict[str, Any]:
    """JSON-able: size (pixels or tokens), decoding, resizing, augmentation, as programmed.

    The source stands for itself: whoever changes how a picture is read changes the key without
    having to think of it. Policy, seed and view are in each row's own key.
    """
    if batches.image_size == 0:
        # The vocabulary is in the configuration of the network's first layer.
        return {
            "input_size": batches.input_size,
            "tokenizing": _source(wordpiece, characters, textbatches.encode),
        }
    return {
        "input_size": batches.input_size,
        "decoding": _source(decoding, graph_headers),
        "augmentation": _source(augmentation, derived_seed),
    }


def _source(*things: Any) -> str:
    """Of modules and functions, those with them that they lean on."""
    state = hashlib.sha256()
    for thing in things:
        state.update(inspect.getsource(thing).encode())
    return state.hexdigest()
