"""Asks a SavedModel in processes that know nothing of tltf: Python's loader, and the C++ one."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

# seam: the only name of SavedModel's own message; tf.compat.v1 has MetaGraphDef alone.
from tensorflow.core.protobuf import saved_model_pb2

from tltf.errors import DataError

Arrays = dict[str, np.ndarray]

CPP_LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib")


Answers = Callable[[Path, str, Sequence[bytes]], dict[str, Arrays]]
"""From an unpublished SavedModel folder, the name of its string input, and rows, to what
``serving_default`` says to them, by loader: ``first call`` and ``second call`` of
``tf.saved_model.load``, and ``C++ loader`` where the wheel has the library."""


@contextlib.contextmanager
def loaders() -> Iterator[Answers]:
    """Starts the process that imports only TensorFlow, and gives the function that asks it.

    Importing takes seconds, which pass while the servable is written. The function can be called
    once; without a call the process is ended.

    Raises:
      DataError: of the function: a loader cannot load or run the SavedModel.
    """
    python = _start("fresh_process")
    try:
        yield functools.partial(_answered, python)
    finally:
        python.kill()
        python.communicate()


def _answered(
    python: subprocess.Popen[str], servable: Path, key: str, data: Sequence[bytes]
) -> dict[str, Arrays]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        packed = np.frombuffer(b"".join(data), np.uint8)
        np.savez(folder / "inputs.npz", packed=packed, lengths=np.array([len(x) for x in data]))
        asked = {"python": (python, _request(folder, "python", servable=str(servable), key=key))}
        library = cpp_library()
        if library is not None:
            names = {"library": str(library), **_names_or_none(servable)}
            request = _request(folder, "cpp", servable=str(servable), **names)
            asked["cpp"] = (_start("cpp_process"), request)
        for process, request in asked.values():
            _send(process, request)
        # All are waited for, also when the first one fails: none may outlive the folder.
        ended = {name: process.communicate()[1] for name, (process, _) in asked.items()}
        for name, (process, _) in asked.items():
            _check_ended(process.returncode, ended[name], servable, name)
        found = _read(folder / "python.npz")
        answers = {
            f"{call} call": {
                k.partition("/")[2]: value for k, value in found.items() if k.startswith(call)
            }
            for call in ("first", "second")
        }
        if library is not None:
            answers["C++ loader"] = _read(folder / "cpp.npz")
        return answers


def cpp_library() -> Path | None:
    """The C++ library of the installed TensorFlow, where its wheel has one."""
    folder = Path(tf.__file__).parent
    return next((folder / name for name in CPP_LIBRARIES if (folder / name).exists()), None)


def tensor_names(servable: Path, signature: str = "serving_default") -> dict[str, Any]:
    """``input`` and ``outputs`` of a signature with one input, as names of graph tensors."""
    message = saved_model_pb2.SavedModel.FromString((servable / "saved_model.pb").read_bytes())
    found = message.meta_graphs[0].signature_def[signature]
    return {
        "input": next(iter(found.inputs.values())).name,
        "outputs": {key: info.name for key, info in found.outputs.items()},
    }


def _names_or_none(servable: Path) -> dict[str, Any]:
    """Nothing for a damaged file: the loaders then say so themselves."""
    try:
        return tensor_names(servable)
    except (DecodeError, LookupError):
        return {"input": "", "outputs": {}}


def _start(name: str) -> subprocess.Popen[str]:
    script = Path(__file__).with_name(f"{name}.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _request(folder: Path, name: str, **wanted: Any) -> str:
    """One line: what to load, where the rows are, and where the answers go."""
    files = {"inputs": str(folder / "inputs.npz"), "outputs": str(folder / f"{name}.npz")}
    return json.dumps({**wanted, "files": files}) + "\n"


def _send(process: subprocess.Popen[str], request: str) -> None:
    """Of a process that has ended already, its own last words say why."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.write(request)
            process.stdin.flush()


def _check_ended(code: int, errors: str, servable: Path, name: str) -> None:
    if code:
        last = (errors.strip().splitlines() or [f"it ended with {code} and no message"])[-1]
        place = {"python": "a fresh process", "cpp": "the C++ loader of TF Serving"}[name]
        raise DataError(
            f"the exported SavedModel cannot be used in {place}: {last}",
            where=servable,
            kept="nothing was published",
            next_action="report this model to tltf",
        )


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
