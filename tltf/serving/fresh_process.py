"""Loads a SavedModel with nothing but TensorFlow and answers the given bytes twice.

Run as a script that reads one line of JSON from its standard input, of what to load and which files
to read and write; it ends without one. It must not import tltf or Keras: a server has neither.
"""

import json
import sys

import numpy as np
import tensorflow as tf


def main(request: str) -> None:
    wanted = json.loads(request)
    with np.load(wanted["files"]["inputs"], allow_pickle=False) as file:
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
    np.savez(wanted["files"]["outputs"], **found)


if __name__ == "__main__":
    if line := sys.stdin.readline():
        main(line)
