"""Files of named arrays that verify themselves.

The open safetensors layout (8-byte little-endian header length, JSON header, raw buffers) with
the SHA-256 of the buffers in its metadata, so that a flipped bit is found on load and never used.
No TensorFlow, no pickle, no HDF5.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tltf import storage
from tltf.errors import DataError, InputMissingError
from tltf.storage import damaged, storage_error

MAX_HEADER_BYTES = 100_000_000
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_DTYPE_CODES = {name: code for code, name in DTYPES.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named arrays as one self-verifying tensor file.

    Args:
      path: where; conventionally ``*.safetensors``.
      tensors: name -> array of a dtype in :data:`DTYPES`; written C-contiguous, in this order.
      metadata: further strings for the header; the key ``sha256`` is ours.

    Raises:
      StorageError: the disk is full or writing failed; the previous file is intact.
    """
    header: dict[str, Any] = {}
    buffers, offset = [], 0
    for name, tensor in tensors.items():
        # ascontiguousarray would turn a scalar into a vector of one.
        array = np.asarray(tensor, order="C")
        header[name] = {
            "dtype": _DTYPE_CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        buffers.append(array.reshape(-1).view(np.uint8).data)
        offset += array.nbytes
    state = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for buffer in buffers:
        state.update(buffer)
    header["__metadata__"] = {**(metadata or {}), "sha256": state.hexdigest()}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    storage.write_pieces(path, [struct.pack("<Q", len(head)), head, *buffers])


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a tensor file that :func:`write_tensors` wrote, after checking its SHA-256.

    Returns:
      The arrays by name (read-only views of one buffer) and the metadata.

    Raises:
      InputMissingError: no such file.
      StorageError: cut, damaged, or without a hash: never a partial result.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissingError("there is no such tensor file", where=path) from error
    except OSError as error:
        raise storage_error(error, path) from error
    header, metadata, body = _parse(data, path)
    state = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    state.update(body)
    if state.hexdigest() != metadata.get("sha256"):
        raise damaged(path, "its SHA-256 does not fit its content")
    return {name: _array(entry, body, path) for name, entry in header.items()}, metadata


def _parse(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, str], memoryview]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise damaged(path, "its header is longer than the file")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        header.items(), metadata.items()
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise damaged(path, f"its header is not a JSON object: {error}") from error
    return header, metadata, memoryview(data)[8 + length :]


def _array(entry: Any, body: memoryview, path: Path) -> np.ndarray:
    try:
        dtype = np.dtype(DTYPES[entry["dtype"]])
        start, end = entry["data_offsets"]
        shape = tuple(int(side) for side in entry["shape"])
        fits = 0 <= start <= end <= len(body)
        if not fits or end - start != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise ValueError("offsets and shape disagree")
        count = (end - start) // dtype.itemsize
        return np.frombuffer(body, dtype, offset=start, count=count).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"a tensor's entry is wrong: {error}") from error


def check_finite(tensors: Mapping[str, np.ndarray], *, where: object) -> None:
    """Raises DataError naming the first array that holds NaN or infinity."""
    for name, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise DataError(
                f"weights hold NaN or infinity in {name!r}",
                where=where,
                next_action="get the weights anew",
            )
