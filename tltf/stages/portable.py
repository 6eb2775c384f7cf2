"""LiteRT and ONNX files of a run, measured on its validation split before they are published."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tltf.data.manifest import Manifest, Record
from tltf.data.spreading import spread
from tltf.errors import ArgumentError, printable
from tltf.serving import portable
from tltf.trained import Trained

MOST_COMPARED = 1000


@dataclass(frozen=True, kw_only=True)
class Portable:
    """Which files are wanted.

    Args:
      litert: a kind of :data:`tltf.serving.portable.LITERT_KINDS`, or None.
      onnx: whether to write an ONNX file.
      max_drop: points of validation accuracy that a file may lose.
    """

    litert: str | None = None
    onnx: bool = False
    max_drop: float = 1.0


def portable_files(
    model: Trained, manifest: Manifest, wanted: Portable, *, say: Callable[[str], None]
) -> dict[str, bytes]:
    """The files by name, for the version folder.

    Raises:
      ArgumentError: a model of texts, or an extra that is not installed.
      GateError: a file loses more accuracy than allowed.
    """
    if model.tokenizer is not None and wanted.onnx:
        raise ArgumentError(
            "ONNX files are for models of images",
            where="--onnx",
            next_action="use --litert, which takes token ids",
        )
    images, targets = _arrays(model, spread(manifest.split("val"), most=MOST_COMPARED))
    made: dict[str, tuple[bytes, portable.Run]] = {}
    if wanted.litert is not None:
        train = spread(manifest.split("train"), most=portable.REPRESENTATIVE)
        examples = _arrays(model, train)[0] if wanted.litert == "int8" else ()
        data = portable.litert_bytes(
            model.model,
            model.decision,
            kind=wanted.litert,
            images=examples,
            length=model.max_length,
        )
        made[f"litert/model_{wanted.litert}.tflite"] = data, portable.litert_run(data)
    if wanted.onnx:
        data = portable.onnx_bytes(model.model, model.decision)
        made["onnx/model.onnx"] = data, portable.onnx_run(data)
    files, found = {}, []
    labels = "".join(f"{printable(name)}\n" for name in model.classes).encode()
    for name, (data, run) in made.items():
        measured = portable.agreement(
            name, data, run, model=model.model, decision=model.decision, images=images,
            targets=targets,
        )  # fmt: skip
        say(measured.sentence())
        portable.check_drop(measured, max_drop=wanted.max_drop)
        found.append(dataclasses.asdict(measured))
        files |= {name: data, f"{name.partition('/')[0]}/labels.txt": labels}
    files["portable.json"] = (json.dumps(found, indent=2) + "\n").encode()
    return files


def _arrays(model: Trained, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 ``[n, S, S, 3]`` (token ids ``[n, L]``) and targets ``[n, C]``, in order."""
    batches = model.batches(records)
    pairs = [(x.numpy(), y.numpy()) for x, y, _ in batches.eval_dataset()]
    if model.tokenizer is not None:
        pad, length = model.tokenizer.pad, model.max_length
        pairs = [
            (np.pad(x, [(0, 0), (0, length - x.shape[1])], constant_values=pad), y)
            for x, y in pairs
        ]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
