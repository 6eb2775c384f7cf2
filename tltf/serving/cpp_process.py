"""Loads a SavedModel by TensorFlow's C++ loader, as TF Serving does, and answers the given bytes.

Run as a script that reads one line of JSON from its standard input, as ``fresh_process.py``. No
Python of TensorFlow is imported: the library of the wheel is called through its C interface.
"""

import ctypes
import json
import sys

import numpy as np

TF_STRING, TF_STRING_BYTES = 7, 24
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}


class Output(ctypes.Structure):
    """``TF_Output``: an operation of the graph and which of its outputs."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def main(request: str) -> None:
    wanted = json.loads(request)
    with np.load(wanted["files"]["inputs"], allow_pickle=False) as file:
        packed, lengths = file["packed"].tobytes(), file["lengths"]
    ends = np.cumsum(lengths)
    data = [packed[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    model = Loaded(wanted["library"], wanted["servable"])
    found = model.run(wanted["input"], data, wanted["outputs"])
    np.savez(wanted["files"]["outputs"], **found)


class Loaded:
    """A session over the graph with the tag ``serve``."""

    def __init__(self, library: str, servable: str) -> None:
        self.tf = ctypes.CDLL(library)
        for name in (
            *("TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_AllocateTensor"),
            *("TF_LoadSessionFromSavedModel", "TF_GraphOperationByName", "TF_TensorData"),
            *("TF_Message", "TF_StringGetDataPointer"),
        ):
            getattr(self.tf, name).restype = ctypes.c_void_p
        for name in ("TF_Dim", "TF_TensorByteSize", "TF_StringGetSize"):
            getattr(self.tf, name).restype = ctypes.c_size_t
        self.status = ctypes.c_void_p(self.tf.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.tf.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.tf.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(self.tf.TF_NewSessionOptions()), None, servable.encode(),
                tags, 1, self.graph, None, self.status,
            )
        )  # fmt: skip
        self.check()

    def check(self) -> None:
        """Raises what the library says."""
        if self.tf.TF_GetCode(self.status):
            message = ctypes.cast(self.tf.TF_Message(self.status), ctypes.c_char_p).value
            raise RuntimeError((message or b"no message").decode("utf-8", "replace"))

    def run(self, name: str, data: list[bytes], outputs: dict[str, str]) -> dict[str, np.ndarray]:
        """The outputs for one string vector; tensors are named as in the signature."""
        places = (Output * len(outputs))(*(self.place(tensor) for tensor in outputs.values()))
        values = (ctypes.c_void_p * len(outputs))()
        self.tf.TF_SessionRun(
            self.session, None,
            (Output * 1)(self.place(name)), (ctypes.c_void_p * 1)(self.strings(data)), 1,
            places, values, len(outputs), None, 0, None, self.status,
        )  # fmt: skip
        self.check()
        return {key: self.array(value) for key, value in zip(outputs, values, strict=True)}

    def place(self, tensor: str) -> Output:
        """``name:1`` as a ``TF_Output``."""
        name, _, index = tensor.partition(":")
        operation = self.tf.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise RuntimeError(f"the graph has no operation {name}")
        return Output(operation, int(index or 0))

    def strings(self, data: list[bytes]) -> int:
        """A string tensor ``[len(data)]``."""
        size = TF_STRING_BYTES * len(data)
        shape = (ctypes.c_int64 * 1)(len(data))
        tensor = self.tf.TF_AllocateTensor(TF_STRING, shape, 1, ctypes.c_size_t(size))
        start = self.tf.TF_TensorData(ctypes.c_void_p(tensor))
        for i, item in enumerate(data):
            place = ctypes.c_void_p(start + i * TF_STRING_BYTES)
            self.tf.TF_StringInit(place)
            self.tf.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
        return tensor

    def array(self, value: int) -> np.ndarray:
        """A tensor as an array; strings as bytes."""
        tensor = ctypes.c_void_p(value)
        shape = [self.tf.TF_Dim(tensor, i) for i in range(self.tf.TF_NumDims(tensor))]
        start, kind = self.tf.TF_TensorData(tensor), self.tf.TF_TensorType(tensor)
        if kind != TF_STRING:
            size = self.tf.TF_TensorByteSize(tensor)
            return np.frombuffer(ctypes.string_at(start, size), DTYPES[kind]).reshape(shape)
        found = []
        for i in range(int(np.prod(shape))):
            place = ctypes.c_void_p(start + i * TF_STRING_BYTES)
            length = self.tf.TF_StringGetSize(place)
            found.append(ctypes.string_at(self.tf.TF_StringGetDataPointer(place), length))
        return np.array(found, np.bytes_).reshape(shape)


if __name__ == "__main__":
    if line := sys.stdin.readline():
        main(line)
