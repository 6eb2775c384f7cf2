"""Pretrained tensors from files that are data only: safetensors, and TensorFlow checkpoints.

A safetensors file is 8 bytes of header length, a JSON header and raw buffers; it is memory-mapped,
so that a tensor is read when it is asked for. Pickled files are refused: reading one runs code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tltf.errors import DataError, InputMissingError, SecurityError

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
DTYPES |= {"I8": "i1", "I16": "<i2", "BOOL": "?", "BF16": "<u2"}
MAX_HEADER = 100_000_000
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")


class TensorFiles(Mapping[str, np.ndarray]):
    """Named tensors, each read on demand as float32 (or as the integers that they are)."""

    def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def open_folder(folder: Path) -> TensorFiles:
    """The tensors of ``model.safetensors``, of its shards, or of ``bert_model.ckpt``.

    Raises:
      SecurityError: only pickled weights, or a shard outside the folder.
      InputMissingError: no weights.
      DataError: a damaged file.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return TensorFiles(_safetensors(single))
    if index.is_file():
        return TensorFiles(_shards(folder, index))
    checkpoint = sorted(folder.glob("*.ckpt.index"))
    if checkpoint:
        return _checkpoint(checkpoint[0].with_suffix(""))
    pickled = [name for name in PICKLED if (folder / name).exists()]
    if pickled:
        raise SecurityError(
            f"{pickled[0]} is a pickle: reading it would run whatever code is in it",
            where=folder,
            next_action="get model.safetensors of the same model, or convert it elsewhere with "
            "safetensors.torch.save_file",
        )
    raise InputMissingError(
        "no weights: wanted model.safetensors (or its shards, or bert_model.ckpt)",
        where=folder,
        next_action="put the file of that name beside config.json",
    )


def _safetensors(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    header, start = _header(path)
    data = np.memmap(path, np.uint8, mode="r")
    return {
        name: _reader(data, entry, start, name, path)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise DataError("damaged safetensors file: its header is longer than it", where=path)
        text = file.read(length)
    try:
        header = json.loads(text)
        header.items()
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError("damaged safetensors file: its header is no object", where=path) from error
    return header, 8 + length


def _reader(
    data: np.ndarray, entry: Any, start: int, name: str, path: Path
) -> Callable[[], np.ndarray]:
    """Checks the entry now and reads the tensor later."""
    try:
        dtype = np.dtype(DTYPES[entry["dtype"]])
        shape = tuple(int(side) for side in entry["shape"])
        begin, end = (start + int(offset) for offset in entry["data_offsets"])
        if not start <= begin <= end <= len(data) or min(shape, default=0) < 0:
            raise ValueError("it ends behind the file")
        if end - begin != dtype.itemsize * int(np.prod(shape, dtype=object)):
            raise ValueError("its size is not that of its shape")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"damaged safetensors file: {name}: {error}", where=path) from error

    def read() -> np.ndarray:
        array = data[begin:end].view(dtype).reshape(shape)
        if entry["dtype"] == "BF16":
            # bfloat16 is the upper half of a float32.
            return (array.astype(np.uint32) << 16).view(np.float32)
        if array.dtype.kind != "f":
            return np.asarray(array)
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)
        if np.isfinite(array).all() and not np.isfinite(values).all():
            raise DataError(f"{name} holds numbers beyond float32", where=path)
        return values

    return read


def _shards(folder: Path, index: Path) -> dict[str, Callable[[], np.ndarray]]:
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"damaged index: {error}", where=index) from error
    found: dict[str, Callable[[], np.ndarray]] = {}
    for name in names:
        if Path(name).name != name:
            raise SecurityError(f"a shard outside the folder: {name!r}", where=index)
        if not (folder / name).is_file():
            raise InputMissingError(f"the shard {name} is missing", where=folder)
        found |= _safetensors(folder / name)
    lacking = [name for name in places if name not in found]
    if lacking:
        raise DataError(f"no shard holds {lacking[0]}", where=index)
    return found


def _checkpoint(prefix: Path) -> TensorFiles:
    """A TensorFlow checkpoint of the original BERT, under the names of Hugging Face."""
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = list(reader.get_variable_to_shape_map())
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(f"damaged checkpoint: {error}", where=prefix) from error

    def read(name: str) -> Callable[[], np.ndarray]:
        def tensor() -> np.ndarray:
            array = reader.get_tensor(name)
            return array.T if name.endswith("/kernel") else array

        return tensor

    return TensorFiles({hugging_name(n): read(n) for n in names if _is_weight(n)})


def _is_weight(name: str) -> bool:
    return not name.endswith(("adam_m", "adam_v")) and "global_step" not in name


def hugging_name(name: str) -> str:
    """The Hugging Face name of a variable of the original code.

    >>> hugging_name("bert/encoder/layer_3/attention/self/query/kernel")
    'bert.encoder.layer.3.attention.self.query.weight'
    """
    parts = name.replace("/layer_", "/layer/").split("/")
    last = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(parts[-1], parts[-1])
    tail = ["weight"] if last.endswith("_embeddings") else []
    return ".".join([*parts[:-1], last, *tail])
