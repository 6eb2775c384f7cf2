"""MNIST and USPS digits from one .npz file to two image folders."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tltf import storage
from tltf.data.cachefolder import made_once
from tltf.errors import DataError, InputMissingError

KEYS = ("mnist_x", "mnist_y", "usps_x", "usps_y")
SHAPES = {"mnist": (28, 28), "usps": (16, 16)}


def write(npz: Path, folder: Path) -> tuple[Path, Path]:
    """Writes each image as a grey PNG, ``mnist/<digit>/<number>.png`` and ``usps/...``.

    They are written once below ``folder``, under the digest of the file, and reused.

    Returns:
      The two image folders.

    Raises:
      InputMissingError, DataError: as :func:`read`.
    """
    arrays = read(npz)
    place = folder / f"digits-{storage.file_sha256(npz)[:12]}"
    made_once(place, lambda made: _write(arrays, made))
    return place / "mnist", place / "usps"


def read(npz: Path) -> dict[str, np.ndarray]:
    """``mnist_x`` uint8 [n, 28, 28] and ``usps_x`` uint8 [n, 16, 16], with digits ``_y`` [n].

    The file holds USPS as float32 in [0, 1]; it is rounded to 0..255. Nothing is unpickled.

    Raises:
      InputMissingError: no such file.
      DataError: another content than this.
    """
    if not npz.is_file():
        raise InputMissingError(
            "there is no such file", where=f"--digits_npz={npz}", next_action="pass a .npz file"
        )
    try:
        with np.load(npz, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS}
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise _wrong(npz, str(error)) from error
    for name, shape in SHAPES.items():
        x, y = arrays[f"{name}_x"], arrays[f"{name}_y"]
        if x.shape != (len(y), *shape) or y.ndim != 1 or not np.isin(y, range(10)).all():
            raise _wrong(npz, f"{name}_x{list(x.shape)} with {name}_y{list(y.shape)}")
    grey = arrays["usps_x"]
    if arrays["mnist_x"].dtype != np.uint8 or grey.dtype != np.float32:
        raise _wrong(npz, f"mnist_x {arrays['mnist_x'].dtype}, usps_x {grey.dtype}")
    if not ((grey >= 0) & (grey <= 1)).all():
        raise _wrong(npz, "usps_x has values outside [0, 1]")
    return {**arrays, "usps_x": np.floor(grey * 255 + 0.5).astype(np.uint8)}


def _write(arrays: dict[str, np.ndarray], folder: Path) -> list[dict[str, Any]]:
    import tensorflow as tf

    rows = []
    for name in SHAPES:
        for number, (x, y) in enumerate(zip(arrays[f"{name}_x"], arrays[f"{name}_y"], strict=True)):
            file = folder / name / str(int(y)) / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tf.io.encode_png(x[..., None]).numpy())
            rows.append({"file": str(file.relative_to(folder))})
    return rows


def _wrong(npz: Path, what: str) -> DataError:
    return DataError(
        f"{what}; expected mnist_x uint8 [n, 28, 28], usps_x float32 [n, 16, 16] in [0, 1], and"
        " their digits mnist_y, usps_y",
        where=f"--digits_npz={npz}",
        next_action="pass such a file, or image folders as --source and --target",
    )
