"""What an image file is before it is decoded: its bytes, its header, and whether to go on.

The header is looked at first, so that what is no image, or unpacks to gigabytes, is refused while
it is still small.
"""

from __future__ import annotations

import stat
from pathlib import Path

from tltf.data.headers import (
    SUPPORTED,
    DamagedError,
    Header,
    UnsupportedError,
    kind_of,
    read_header,
)
from tltf.data.manifest import Record

# A small file may not make a process grow by more than this while it is decoded.
_SMALL_FILE_BYTES = 1 << 20
_SMALL_FILE_DECODED_BYTES = 300 << 20
_HEAD_BYTES = 4096
# No image of the allowed size needs as much: refused before it fills the memory.
_MOST_FILE_BYTES = 1 << 30

_EXTENSIONS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "WebP": {".webp"},
}
_KNOWN_EXTENSIONS = set().union(*_EXTENSIONS.values()) | {".tif", ".tiff", ".heic", ".avif"}


class UnusableError(Exception):
    """A file that is no image; the message is the reason."""


def read_image(path: Path) -> tuple[bytes, Header]:
    """All bytes of the file and its header; only the head is read when it is no image.

    Raises:
      UnusableError: it is none, or cannot be read.
    """
    try:
        return _data_and_header(path)
    except OSError as error:
        raise UnusableError(os_reason(error)) from error
    except UnsupportedError as error:
        raise UnusableError(f"unsupported format: {error}") from error
    except ValueError as error:
        raise UnusableError(str(error)) from error


def _data_and_header(path: Path) -> tuple[bytes, Header]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
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
        if status.st_size > _MOST_FILE_BYTES:
            raise DamagedError(f"too large: a file of {status.st_size >> 20} MB")
        data = head + file.read()
    return data, read_header(data, kind)


def _start(head: bytes) -> str:
    """How the file begins, as a person would say it: a word of text, or some bytes.

    >>> _start(b"<!DOCTYPE html><html>")
    "'<!DOCTYPE'"
    """
    word = (head.split() or [head])[0][:20]
    if all(32 < byte < 127 for byte in word):
        return repr(word.decode("ascii"))
    return "bytes " + head[:4].hex(" ")


def size_reason(header: Header, file_bytes: int, max_image_pixels: int) -> str:
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


def os_reason(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def is_misnamed(record: Record, header: Header) -> bool:
    """Whether the extension names another format than the content has."""
    extension = Path(str(record.path)).suffix.lower()
    return extension in _KNOWN_EXTENSIONS and extension not in _EXTENSIONS[header.kind]
