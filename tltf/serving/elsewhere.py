"""Asks a SavedModel in processes that know nothing of tltf: Python's loader, and the C++ one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
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


def answers_elsewhere(servable: Path, key: str, data: Sequence[bytes]) -> dict[str, Arrays]:
    """What ``serving_default`` says to the same rows in other processes.

    Args:
      servable: an unpublished SavedModel folder.
      key: the name of the string input.
      data: the rows.

    Returns:
      By loader: ``first call`` and ``second call`` of ``tf.saved_model.load`` in a process that
      imports only TensorFlow, and ``C++ loader`` where the wheel has the library.

    Raises:
      DataError: one of them cannot load or run it.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        packed = np.frombuffer(b"".join(data), np.uint8)
        np.savez(folder / "inputs.npz", packed=packed, lengths=np.array([len(x) for x in data]))
        waiting = {
            "python": _start(folder, "fresh_process", {"servable": str(servable), "key": key})
        }
        library = cpp_library()
        if library is not None:
            wanted = {
                "servable": str(servable),
                "library": str(library),
                **_names_or_none(servable),
            }
            waiting["cpp"] = _start(folder, "cpp_process", wanted)
        # All are waited for, also when the first one fails: none may outlive the folder.
        ended = {name: process.communicate()[1] for name, process in waiting.items()}
        for name, process in waiting.items():
            _check_ended(process.returncode, ended[name], servable, name)
        found = _read(folder / "fresh_process.npz")
        answers = {
            f"{call} call": {
                k.partition("/")[2]: value for k, value in found.items() if k.startswith(call)
            }
            for call in ("first", "second")
        }
        if library is not None:
            answers["C++ loader"] = _read(folder / "cpp_process.npz")
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


def _start(folder: Path, name: str, request: Mapping[str, Any]) -> subprocess.Popen[str]:
    script = Path(__file__).with_name(f"{name}.py")
    (folder / f"{name}.json").write_text(json.dumps(request), "utf-8")
    files = [str(folder / f"{name}.json"), str(folder / "inputs.npz"), str(folder / f"{name}.npz")]
    return subprocess.Popen(
        [sys.executable, "-I", str(script), *files],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


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
