"""Weight files: official ones without trusting the network, and anybody's as plain data.

seam: ``keras.applications`` asks for its files through the ``get_file`` of the module that
defines ``keras.utils.get_file``; :func:`official_files` answers in its place. File names, URLs
and hashes are the ones that Keras passes; none is written here except the pins below.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import queue
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from tltf.backbones import foreign
from tltf.backbones.official import cache_folder
from tltf.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    InputMissingError,
    OutputError,
    named_list,
)

# SHA-256 of official files for which Keras itself has no hash.
PINNED = {
    "mobilenet_2_5_224_tf.h5": "6b0e5561e6611c6e88f014c3f698ee3ed80bc0a2ed74bc048173f6508afa53db",
    "mobilenet_2_5_224_tf_no_top.h5": (
        "5583bfd0b6572d11fbb377a907299dc02bd1f6b461cdc93d2283f298146c7e46"
    ),
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5": (
        "7d28b6f83412bd7ea5e3c83ab3a834b08cf723e1d06a4847fe673d16d48a9d35"
    ),
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5": (
        "3f4ebcfdad8a283c8720fae68d31abab38e5f6de88a84d93314d386e3ac4ddce"
    ),
}

SUFFIXES = (".weights.h5", ".h5", ".keras")
CONNECT_SECONDS = 5.0  # name lookup, which has no timeout of its own, included
_CHUNK = 1 << 20
_REPLACING = threading.RLock()


@contextlib.contextmanager
def official_files() -> Iterator[None]:
    """While it is open, keras.applications gets its files from :func:`fetch`.

    Example::

      with official_files():
          model = keras.applications.MobileNetV2(include_top=False)
    """
    module = sys.modules[keras.utils.get_file.__module__]
    with _REPLACING:
        original = module.get_file
        module.get_file = fetch  # type: ignore[attr-defined]
        try:
            yield
        finally:
            module.get_file = original  # type: ignore[attr-defined]


def fetch(
    fname: str, origin: str, *, cache_subdir: str = "models", file_hash: str | None = None
) -> str:
    """The path of an official file, from the cache or else downloaded; always checked.

    A cached file with a wrong hash is set aside as ``<name>.bad``. Two processes that want the
    same file download it once.

    Args:
      fname: file name in the cache.
      origin: its URL, as Keras gives it.
      cache_subdir: folder below the cache.
      file_hash: MD5 or SHA-256 in hex, as Keras gives it; None falls back on :data:`PINNED`.

    Raises:
      DownloadError: not in the cache, and not to be had from the network.
      OutputError: the cache cannot be written.
    """
    folder = cache_folder(cache_subdir)
    target, expected = folder / fname, file_hash or PINNED.get(fname, "")
    if _intact(target, expected):
        return str(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{fname}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _intact(target, expected):  # another process was faster
                return str(target)
            if target.exists():
                bad = target.with_name(fname + ".bad")
                target.replace(bad)
                logging.warning("%s has a wrong hash; set aside as %s", target, bad.name)
            _download(target, origin, expected)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise OutputError(
            f"cannot write the weights cache: {error.strerror or error}",
            where=folder,
            next_action="make it writable, or set KERAS_HOME to another folder",
        ) from error
    return str(target)


class Unreachable(Exception):
    """Why a download failed, in two or three words; the cause is chained."""


def _download(target: Path, origin: str, expected: str) -> None:
    """Downloads to a sibling, checks it, and renames."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    logging.info("downloading %s", origin)
    try:
        with connect(origin) as response:
            _copy(response, part)
        if not _intact(part, expected):
            raise Unreachable("wrong hash")
        part.replace(target)
    except Unreachable as error:
        digest = f" {_algorithm(expected)} {expected}" if expected else ""
        # some files have another name in the cache than in their URL
        name = "" if origin.endswith(f"/{target.name}") else f" as {target.name}"
        raise DownloadError(
            f"cannot get {target.name}",
            where=error,
            next_action=f"put it into {target.parent}{name} from {origin}{digest}",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def connect(origin: str, *, schemes: tuple[str, ...] = ("https://",)) -> Any:
    """The open HTTP response, within :data:`CONNECT_SECONDS`.

    Raises:
      Unreachable: in two or three words why.
    """
    if not origin.startswith(schemes):
        raise Unreachable("not https")
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(origin, timeout=CONNECT_SECONDS))
        except Exception as error:  # handed to the caller, who is waiting
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        response = answer.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise Unreachable("no answer") from None
    if isinstance(response, urllib.error.HTTPError):
        raise Unreachable(f"HTTP {response.code}") from response
    if isinstance(response, Exception):
        raise Unreachable("no network") from response
    return response


def _copy(response: Any, part: Path) -> None:
    """The response's body into a file, complete or not at all."""
    length = response.headers.get("Content-Length")
    size = 0
    with part.open("wb") as file:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable("cut short") from error
            if not chunk:
                break
            size += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if length is not None and size != int(length):
        raise Unreachable("cut short")


def _algorithm(digest: str) -> str:
    return "sha256" if len(digest) == 64 else "md5"


def _intact(path: Path, expected: str) -> bool:
    """The file is there and, if a hash is known, has it."""
    if not path.is_file():
        return False
    if not expected:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, _algorithm(expected)).hexdigest() == expected


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads a file of the user's into a model, every array or none of them.

    The file is read as data: whatever a ``.keras`` archive says about classes is not looked at.
    Throw the model away when this raises.

    Args:
      model: the network, without top.
      path: ``.h5``, ``.weights.h5`` or ``.keras``.

    Raises:
      InputMissingError: no such file.
      ArgumentError: another kind of file.
      DataError: damaged, or the arrays of another architecture (the first differences are named).
      SecurityError: it holds more than plain arrays: code, objects, links, bombs.
    """
    file = Path(path)
    foreign.check_kind(file)
    if not file.is_file():
        raise InputMissingError(
            "no such weights file",
            where=file,
            next_action="pass imagenet, none, or the path of an existing file as --weights",
        )
    if not file.name.endswith(SUFFIXES):
        raise ArgumentError(
            f"weights file {file.name!r}, expected {', '.join(SUFFIXES)}", where="--weights"
        )
    stored = foreign.stored_shapes(file)
    differences = _differences(model, stored)
    if differences:
        raise DataError(
            f"these weights are of another architecture than {model.name}:"
            f" {named_list(differences)}",
            where=file,
            next_action="pass weights of this backbone without its top",
        )
    try:
        model.load_weights(str(file))
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"these weights do not fit {model.name}: {error}", where=file) from error
    refresh(model)


def refresh(model: keras.Model) -> None:
    """Brings derived constants up to date after weights were assigned by hand.

    ``keras.layers.Normalization``, in many people's own models, computes with constants that it
    derives from its weights when a file is loaded; ``set_weights`` and ``assign`` leave the old.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
        elif isinstance(layer, keras.Model):
            refresh(layer)


def check_finite(model: keras.Model, *, where: object) -> None:
    """Raises DataError naming the first variable that holds NaN or infinity."""
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise DataError(
                f"{weight.path} holds NaN or infinity",
                where=where,
                next_action="get the weights again, this file is damaged",
            )


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over every weight in order: position, shape, dtype and bytes.

    Names are left out, since Keras numbers unnamed layers by what was built before them.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for position, weight in enumerate(model.weights):
        value = np.ascontiguousarray(weight.numpy())
        digest.update(f"{position} {value.shape} {value.dtype}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _differences(model: keras.Model, stored: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """What the model needs and the file lacks, then the other way round, by shape."""
    spare = Counter(shape for _, shape in stored)
    lacking = []
    for weight in model.weights:
        shape = tuple(weight.shape)
        if spare[shape]:
            spare[shape] -= 1
        else:
            lacking.append(f"{weight.path}{list(shape)} is not in the file")
    surplus = []
    for name, shape in stored:
        if spare[shape]:
            spare[shape] -= 1
            surplus.append(f"{name}{list(shape)} is not in the model")
    return lacking + surplus
