"""Every file is decoded once before the first step, so that bad data is named, not met midway."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tltf.data.decoding import decode
from tltf.data.headers import (
    SUPPORTED,
    DamagedError,
    Header,
    UnsupportedError,
    kind_of,
    read_header,
)
from tltf.data.manifest import BadInputsError, Excluded, Manifest, Record
from tltf.errors import named_list, printable

# A small file may not make the process grow by more than this while it is decoded.
_SMALL_FILE_BYTES = 1 << 20
_SMALL_FILE_DECODED_BYTES = 300 << 20
# Decodes above this size run one at a time, whatever the number of threads.
_LARGE_DECODED_BYTES = 24 << 20
_HEAD_BYTES = 4096

_EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "WebP": {".webp"},
}
_KNOWN_EXTENSIONS = set().union(*_EXTENSIONS.values()) | {".tif", ".tiff", ".heic", ".avif"}

_decode = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
_one_large_decode = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Finding:
    sha256: str = ""
    reason: str = ""
    header: Header | None = None


def scan(
    manifest: Manifest,
    *,
    max_image_pixels: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Reads and fully decodes every file, with the decoder that training and serving use.

    Args:
      manifest: as a source gave it.
      max_image_pixels: images with more (width times height, from the header) are not decoded.
      threads: how many files at a time; None for one per processor.
      progress: called with (done, all) after every file.

    Returns:
      The manifest with ``sha256`` in every record, the undecodable records moved to
      ``excluded`` as ``bad`` with a reason, and notes on turned and misnamed files.
      Good, bad and ignored add up to what was found.

    Example::

      manifest = apply_policy(scan(load("photos"), max_image_pixels=64_000_000))
    """
    findings: list[_Finding] = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        checks = pool.map(lambda r: _check(r, max_image_pixels), manifest.records)
        for record_finding in checks:
            findings.append(record_finding)
            if progress:
                progress(len(findings), len(manifest.records))
    pairs = list(zip(manifest.records, findings, strict=True))
    good = tuple(
        dataclasses.replace(record, sha256=found.sha256)
        for record, found in pairs
        if not found.reason
    )
    bad = tuple(
        Excluded(id=record.id, outcome="bad", reason=found.reason)
        for record, found in pairs
        if found.reason
    )
    return dataclasses.replace(
        manifest,
        records=good,
        excluded=manifest.excluded + bad,
        notes=manifest.notes + _notes(pairs),
    )


def apply_policy(
    manifest: Manifest, *, bad_files: str = "error", max_bad_fraction: float = 0.01
) -> Manifest:
    """Decides what bad files and rows mean for the run.

    Args:
      manifest: after :func:`scan`.
      bad_files: ``error`` refuses any, ``skip`` goes on without them.
      max_bad_fraction: with ``skip``, how many there may be, as a share of good and bad.

    Raises:
      BadInputsError: bad ones under ``error``, or too many under ``skip``; its ``excluded``
        lists every one.
    """
    bad = tuple(x for x in manifest.excluded if x.outcome == "bad")
    if not bad:
        return manifest
    found = len(bad) + len(manifest.records)
    first = named_list(f"{x.id} ({x.reason})" for x in bad)
    if bad_files != "skip":
        raise BadInputsError(
            f"{len(bad)} of {found} inputs are bad: {first}",
            excluded=bad,
            where="data",
            next_action="repair or remove them, or go on without them by --bad_files=skip",
        )
    if len(bad) > max_bad_fraction * found:
        raise BadInputsError(
            f"{len(bad)} of {found} inputs are bad, more than max_bad_fraction"
            f" {max_bad_fraction:g}: {first}",
            excluded=bad,
            where="data",
            next_action="repair or remove them, or raise --max_bad_fraction",
        )
    note = printable(f"skipped {len(bad)} bad of {found} inputs: {first}")
    return dataclasses.replace(manifest, notes=(*manifest.notes, note))


def find_unreadable(
    records: Sequence[Record], *, threads: int | None = None
) -> tuple[Excluded, ...]:
    """Which files cannot be read now, or are not what they were when they were scanned.

    For the one who got a TensorFlow error in mid-epoch, which does not say from which file.
    """

    def reason(record: Record) -> str:
        if record.sha256 and record.path is not None:
            try:
                digest = hashlib.sha256(Path(record.path).read_bytes()).hexdigest()
            except OSError as error:
                return _os_reason(error)
            # Same bytes as in the scan decode as they did in the scan.
            return "" if digest == record.sha256 else "changed since it was scanned"
        return _check(record, 2**63).reason

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        reasons = list(pool.map(reason, records))
    return tuple(
        Excluded(id=record.id, outcome="bad", reason=why)
        for record, why in zip(records, reasons, strict=True)
        if why
    )


def reason_against(path: str, *, max_image_pixels: int = 64_000_000) -> str:
    """Why one file cannot be used, or an empty string: the same check as :func:`scan`."""
    return _check(Record(id=path, path=path), max_image_pixels).reason


def _check(record: Record, max_image_pixels: int) -> _Finding:
    if record.path is None:
        text = (record.text or "").encode("utf-8", "surrogatepass")
        return _Finding(sha256=hashlib.sha256(text).hexdigest())
    try:
        data, kind = _read(Path(record.path))
        header = read_header(data, kind)
    except OSError as error:
        return _Finding(reason=_os_reason(error))
    except UnsupportedError as error:
        return _Finding(reason=f"unsupported format: {error}")
    except ValueError as error:
        return _Finding(reason=str(error))
    reason = _size_reason(header, len(data), max_image_pixels) or _decode_reason(data, header)
    if reason:
        return _Finding(reason=reason)
    return _Finding(sha256=hashlib.sha256(data).hexdigest(), header=header)


def _read(path: Path) -> tuple[bytes, str]:
    """All bytes of the file and its format; only the head is read when it is no image."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedError("not a regular file")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if not head:
            raise DamagedError("empty file")
        kind = kind_of(head)
        if kind is None:
            raise DamagedError(f"not an image: starts with {_start(head)}")
        if kind not in SUPPORTED:
            raise UnsupportedError(kind)
        return head + file.read(), kind


def _start(head: bytes) -> str:
    """How the file begins, as a person would say it: a word of text, or some bytes.

    >>> _start(b"<!DOCTYPE html><html>")
    "'<!DOCTYPE'"
    """
    word = (head.split() or [head])[0][:20]
    if all(32 < byte < 127 for byte in word):
        return repr(word.decode("ascii"))
    return "bytes " + head[:4].hex(" ")


def _size_reason(header: Header, file_bytes: int, max_image_pixels: int) -> str:
    width, height = header.width, header.height
    if width == 0 or height == 0:
        return f"truncated or corrupt {header.kind}"
    if width * height > max_image_pixels:
        return f"too large: {width}x{height} pixels, limit {max_image_pixels}"
    need = header.decoded_bytes
    if file_bytes <= _SMALL_FILE_BYTES and need > _SMALL_FILE_DECODED_BYTES:
        return (
            f"too large: {width}x{height} pixels, {need >> 20} MB to decode from {file_bytes} bytes"
        )
    return ""


def _decode_reason(data: bytes, header: Header) -> str:
    try:
        if header.decoded_bytes > _LARGE_DECODED_BYTES:
            with _one_large_decode:
                _decode(data)
        else:
            _decode(data)
    except tf.errors.InvalidArgumentError:
        return f"truncated or corrupt {header.kind}"
    except tf.errors.ResourceExhaustedError:
        return f"too large: {header.width}x{header.height} pixels, out of memory"
    return ""


def _os_reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _notes(pairs: Sequence[tuple[Record, _Finding]]) -> tuple[str, ...]:
    seen = [(record, found.header) for record, found in pairs if found.header is not None]
    notes = []
    turned = sum(header.orientation != 1 for _, header in seen)
    if turned:
        notes.append(
            f"EXIF orientation is ignored everywhere alike; {turned} file(s) carry one;"
            " remedy: rotate the pixels, e.g. with `mogrify -auto-orient`"
        )
    misnamed = [
        (record.id, header.kind)
        for record, header in seen
        if (extension := Path(str(record.path)).suffix.lower()) in _KNOWN_EXTENSIONS
        and extension not in _EXTENSIONS[header.kind]
    ]
    if misnamed:
        name, kind = misnamed[0]
        notes.append(
            f"{len(misnamed)} file(s) have another extension than their content, which counts:"
            f" {printable(name)} is a {kind}"
        )
    return tuple(notes)
