"""Pixels together with the hash of the very bytes that they were decoded from.

A record says which bytes its file had when it was scanned. Between that scan and the moment in
which the file is read for its features lie seconds, or, with an index, months; whoever puts
something on record under the scanned hash asks here what the file has become.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tltf.data.columns import Rows
from tltf.data.decoding import decode, resize
from tltf.data.manifest import BadInputsError, Excluded, Record
from tltf.data.scan import CHANGED, find_unreadable
from tltf.errors import named_list


@functools.cache
def hashed_reader(size: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """As :func:`tltf.data.decoding.image_reader`, from one reading of the file.

    Returns:
      From a path to float32 ``[size, size, 3]`` and a string scalar, the SHA-256 in hex.
    """

    def read(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data = tf.io.read_file(path)
        return resize(decode(data), size), _sha256(data)

    return tf.function(read, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _sha256(data: tf.Tensor) -> tf.Tensor:
    # No op of TensorFlow does this; hashlib lets the other threads go on meanwhile.
    def hashed(content: bytes) -> bytes:
        return hashlib.sha256(content).hexdigest().encode()

    return tf.ensure_shape(tf.numpy_function(hashed, [data], tf.string, stateful=False), ())


def check_contents(
    records: Sequence[Record], found: np.ndarray | tf.Tensor, *, among: Sequence[Record]
) -> None:
    """What was decoded is what the records say; one without a hash says nothing.

    Args:
      records: of a batch.
      found: strings ``[len(records)]``, of :func:`hashed_reader`.
      among: all records of the pass, of which every one that changed is named.

    Raises:
      BadInputsError: at least one of the batch is not.
    """
    digests = [digest.decode() for digest in np.asarray(found).tolist()]
    changed = {
        record.id: Excluded(id=record.id, outcome="bad", reason=CHANGED)
        for record, digest in zip(records, digests, strict=True)
        if record.sha256 and record.sha256 != digest
    }
    if changed:
        # A file that was put back meanwhile is named all the same: something else was decoded.
        bad = {x.id: x for x in find_unreadable(among)} | changed
        raise unreadable_error([bad[r.id] for r in among if r.id in bad], n=len(among))


def content_keys(records: Sequence[Record]) -> np.ndarray:
    """int32 ``[n]`` that augmentation is seeded with: from the content once it is known."""
    if isinstance(records, Rows):
        return records.keys()
    heads = [bytes.fromhex(record.sha256[:8]) for record in records]
    keys = [int.from_bytes(x, "big", signed=True) if x else i for i, x in enumerate(heads)]
    return np.array(keys, np.int32)


def looked_up(rows: Rows) -> Callable[[tf.Tensor], tf.Tensor]:
    """From a number to its path, read from the index when it is wanted."""
    read = rows.path_reader()

    def path(i: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(lambda n: read(int(n)), [i], tf.string, stateful=False)
        return tf.ensure_shape(found, ())

    return path


def unreadable_error(bad: Sequence[Excluded], *, n: int) -> BadInputsError:
    """The error of files that are not what was scanned, or are gone."""
    return BadInputsError(
        f"{len(bad)} of {n} files became unreadable or other ones: "
        + named_list(f"{b.id} ({b.reason})" for b in bad),
        excluded=bad,
        where="data",
        next_action="restore them and start the same command again; after a change that is meant,"
        " begin anew, with another index if there is one",
    )
