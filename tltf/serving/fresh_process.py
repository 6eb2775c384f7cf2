"""Loads a SavedModel with nothing but TensorFlow and answers the given bytes twice.

Run as a script: ``python fresh_process.py REQUEST.json INPUTS.npz OUTPUTS.npz``. It must not
import tltf or Keras: a server has neither.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(request: str, inputs: str, outputs: str) -> None:
    wanted = json.loads(Path(request).read_text("utf-8"))
    with np.load(inputs, allow_pickle=False) as file:
        packed, lengths = file["packed"].tobytes(), file["lengths"]
    ends = np.cumsum(lengths)
    data = [packed[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    loaded = tf.saved_model.load(wanted["servable"])
    answer = loaded.signatures["serving_default"]
    found = {}
    for call in ("first", "second"):
        for key, value in answer(**{wanted["key"]: tf.constant(data)}).items():
            array = value.numpy()
            found[f"{call}/{key}"] = array.astype(bytes) if array.dtype == object else array
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
