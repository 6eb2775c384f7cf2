"""Every file is decoded once before the first step, so that bad data is named, not met midway.

The header is read first; what it shows to be no image, or too large, is never decoded. The rest
is decoded by the decoder that training and serving use, in child processes
(:mod:`tltf.data.decoders`), and what was found is kept (:mod:`tltf.data.scancache`). There is no
TensorFlow in this process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tltf.data import decoders, scancache
from tltf.data.headers import Header
from tltf.data.imagefile import (
    UnusableError,
    is_misnamed,
    os_reason,
    read_image,
    size_reason,
)
from tltf.data.manifest import SKIP, BadInputsError, Excluded, Manifest, Record
from tltf.data.scancache import ScanCache
from tltf.errors import named_list, printable

CHANGED = "changed since it was scanned"
_PIECE = 4096
# Decodes above this size run one at a time, whatever the number of threads.
_LARGE_DECODED_BYTES = 24 << 20
_RUNTIME_LINE = re.compile(r"[IWEF]?\d{4}[ -]|WARNING:")

_one_large_decode = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What the scan knows about one record.

    Args:
      sha256: of the file's bytes, or of a text; "" for what cannot be read.
      reason: why it cannot be used, or "".
      suspect: what the decoder complained about while it decoded, or "".
      header: format, size and channels of an image.
      fingerprint: see :func:`tltf.data.perceptual.fingerprint`.
    """

    sha256: str = ""
    reason: str = ""
    suspect: str = ""
    header: Header | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A scanned manifest, and what was found: record id -> :class:`Finding`, bad ones too."""

    manifest: Manifest
    findings: Mapping[str, Finding]


def examine(
    manifest: Manifest,
    *,
    max_image_pixels: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Examined:
    """Reads and fully decodes every file that no scan has seen before.

    Args:
      manifest: as a source gave it.
      max_image_pixels: images with more (width times height, from the header) are not decoded.
      threads: how many files at a time; None for one per processor.
      progress: called with (done, all) after every file.

    Returns:
      The manifest with ``sha256`` in every record, the undecodable records moved to
      ``excluded`` as ``bad`` with a reason, and notes on turned, misnamed and suspect files; and
      the findings. Good, bad and ignored add up to what was found.

    Raises:
      StorageError: no process that decodes can be started.
    """
    findings: list[Finding] = []
    with (
        scancache.opened() as cache,
        # Reading and waiting overlap, so there is one thread more than there are workers.
        ThreadPoolExecutor(threads or (os.cpu_count() or 1) + 1) as pool,
    ):
        records = manifest.records
        # Piece by piece: what waits for a thread costs memory for every file.
        for start in range(0, len(records), _PIECE):
            piece = records[start : start + _PIECE]
            for found in pool.map(lambda r: _check(r, max_image_pixels, cache), piece):
                findings.append(found)
                if progress:
                    progress(len(findings), len(records))
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
    scanned = dataclasses.replace(
        manifest,
        records=good,
        excluded=manifest.excluded + bad,
        notes=manifest.notes + _notes(pairs),
    )
    return Examined(manifest=scanned, findings={record.id: found for record, found in pairs})


def scan(
    manifest: Manifest,
    *,
    max_image_pixels: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """The manifest of :func:`examine`.

    Example::

      manifest = apply_policy(scan(load("photos"), max_image_pixels=64_000_000))
    """
    return examine(
        manifest, max_image_pixels=max_image_pixels, threads=threads, progress=progress
    ).manifest


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
            next_action=f"repair or remove them{skipped(len(bad), found, max_bad_fraction)}",
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


def skipped(bad: int, found: int, max_bad_fraction: float) -> str:
    """How to go on without the bad ones, with the second flag where there are that many.

    >>> skipped(3, 10, 0.01)
    ', or go on without them by --bad_files=skip --max_bad_fraction=0.3'
    >>> skipped(10, 10, 0.01)
    ''
    """
    if bad <= max_bad_fraction * found:
        return f", or {SKIP}"
    share = math.ceil(100 * bad / found) / 100
    return f", or {SKIP} --max_bad_fraction={share:g}" if share < 1 else ""


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
                return os_reason(error)
            # Same bytes as in the scan decode as they did in the scan.
            return "" if digest == record.sha256 else CHANGED
        return _check(record, 2**63, ScanCache(None)).reason

    bad, rest = [], iter(records)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        while piece := list(islice(rest, _PIECE)):  # an index has more than memory holds
            reasons = pool.map(reason, piece)
            bad += [
                Excluded(id=record.id, outcome="bad", reason=why)
                for record, why in zip(piece, reasons, strict=True)
                if why
            ]
    return tuple(bad)


def reason_against(path: str, *, max_image_pixels: int = 64_000_000) -> str:
    """Why one file cannot be used, or an empty string: the same check as :func:`examine`, but
    decoded in this process, for whoever has TensorFlow here and a request to answer."""
    try:
        data, header = read_image(Path(path))
    except UnusableError as error:
        return str(error)
    return size_reason(header, len(data), max_image_pixels) or _decoded_here(data, header)


def _check(record: Record, max_image_pixels: int, cache: ScanCache) -> Finding:
    if record.path is None:
        text = (record.text or "").encode("utf-8", "surrogatepass")
        return Finding(sha256=hashlib.sha256(text).hexdigest())
    path = Path(record.path)
    try:
        status = path.stat()
        sha256 = cache.sha256_of(record.path, status)
        known = cache.found_in(sha256) if sha256 else None
        if sha256 and known:
            return _finding(sha256, known, status.st_size, max_image_pixels)
        data, header = read_image(path)
    except OSError as error:
        return Finding(reason=os_reason(error))
    except UnusableError as error:
        return Finding(reason=str(error))
    too_large = size_reason(header, len(data), max_image_pixels)
    if too_large:
        return Finding(reason=too_large, header=header)
    sha256 = hashlib.sha256(data).hexdigest()
    known = cache.found_in(sha256)
    if known is None:
        known, lasting = _decoded(data, header)
        if lasting:
            cache.keep_found(sha256, known)
    cache.keep_file(record.path, status, sha256)
    return _finding(sha256, known, len(data), max_image_pixels)


def _finding(sha256: str, known: Mapping[str, Any], size: int, max_image_pixels: int) -> Finding:
    """What is known of the contents, judged by the limit of this scan."""
    header = Header(**known["header"])
    reason = size_reason(header, size, max_image_pixels) or known["reason"]
    return Finding(
        sha256="" if reason else sha256,
        reason=reason,
        suspect=known["suspect"],
        header=header,
        fingerprint=known["hash"],
    )


def _decoded(data: bytes, header: Header) -> tuple[dict[str, Any], bool]:
    """What decoding gives, and whether it would give the same tomorrow."""
    workers = decoders.decoders()
    if header.decoded_bytes > _LARGE_DECODED_BYTES:
        with _one_large_decode:
            answer = workers.decode(data)
    else:
        answer = workers.decode(data)
    reason = ""
    if answer.get("failed") == "damaged":
        reason = f"truncated or corrupt {header.kind}"
    elif answer.get("failed") == "memory":
        reason = f"too large: {header.width}x{header.height} pixels, out of memory"
    elif answer.get("crashed") == "SIGALRM":
        reason = f"the decoder did not come to an end with this {header.kind}"
    elif answer.get("crashed"):
        reason = f"the decoder crashed ({answer['crashed']}) on this {header.kind}"
    known = {
        "header": dataclasses.asdict(header),
        "reason": reason,
        "suspect": _complaint(answer.get("said", "")),
        "hash": answer.get("hash", ""),
    }
    return known, not reason or answer.get("failed") == "damaged"


def _complaint(said: str) -> str:
    """The first line that the decoder, not the runtime, wrote to stderr.

    >>> _complaint("2026-01-01 I tensorflow\\nCorrupt JPEG data: bad Huffman code\\n")
    'Corrupt JPEG data: bad Huffman code'
    """
    lines = (line.strip() for line in said.splitlines())
    return printable(next((x for x in lines if x and not _RUNTIME_LINE.match(x)), ""))[:200]


def _decoded_here(data: bytes, header: Header) -> str:
    import tensorflow as tf

    from tltf.data.decoding import decode_kind

    try:
        if header.decoded_bytes > _LARGE_DECODED_BYTES:
            with _one_large_decode:
                decode_kind(tf.constant(data), header.kind)
        else:
            decode_kind(tf.constant(data), header.kind)
    except tf.errors.InvalidArgumentError:
        return f"truncated or corrupt {header.kind}"
    except tf.errors.ResourceExhaustedError:
        return f"too large: {header.width}x{header.height} pixels, out of memory"
    return ""


def _notes(pairs: Sequence[tuple[Record, Finding]]) -> tuple[str, ...]:
    seen = [(r, found.header) for r, found in pairs if found.header and not found.reason]
    notes = []
    turned = sum(header.orientation != 1 for _, header in seen)
    if turned:
        notes.append(
            f"EXIF orientation is ignored everywhere alike; {turned} file(s) carry one;"
            " remedy: rotate the pixels, e.g. with `mogrify -auto-orient`"
        )
    misnamed = [(r.id, header.kind) for r, header in seen if is_misnamed(r, header)]
    if misnamed:
        name, kind = misnamed[0]
        notes.append(
            f"{len(misnamed)} file(s) have another extension than their content, which counts:"
            f" {printable(name)} is a {kind}"
        )
    suspect = [f"{r.id} ({found.suspect})" for r, found in pairs if found.suspect and found.sha256]
    if suspect:
        notes.append(
            f"{len(suspect)} file(s) decode with a complaint, so some of their pixels may be"
            f" garbage: {printable(named_list(suspect))}"
        )
    return tuple(notes)
