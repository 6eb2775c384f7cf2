"""What the first bytes of a file say: format, size in pixels, memory to decode, EXIF turn.

Read before anything is decoded, so that a 50 KB file that unpacks to gigabytes is refused while
it is still 50 KB. No TensorFlow here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

SUPPORTED = ("JPEG", "PNG", "GIF", "BMP", "WebP")

# A file's content is told from its start alone; names and extensions lie.
_MAGIC: tuple[tuple[str, bytes], ...] = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WebP", rb"RIFF....WEBP"),
    ("BMP", rb"BM.{12}[\x0c-\x7c]\x00\x00\x00"),
    ("TIFF", rb"II[*+]\x00|MM\x00[*+]"),
    ("AVIF", rb"....ftypavi[fs]"),
    ("HEIC", rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)"),
    ("MP4 video", rb"....ftyp"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    ("Windows icon", rb"\x00\x00[\x01\x02]\x00[^\x00]\x00"),
    ("Photoshop", rb"8BPS"),
    ("PDF", rb"%PDF"),
    ("ZIP archive", rb"PK\x03\x04"),
    ("Netpbm", rb"P[1-7]\s"),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("DDS", rb"DDS "),
    ("QOI", rb"qoif"),
    ("SVG", rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg.*?>\s*)?<svg"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _MAGIC)


class UnsupportedError(ValueError):
    """The file is what the message says and is not read by the shared decoder."""


class DamagedError(ValueError):
    """The header is cut off or contradicts itself."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Format, size in pixels, bytes that decoding needs at its peak, EXIF orientation (1..8).

    ``channels`` is what the file holds before it becomes RGB: ``rgb``, ``grey``, ``palette``,
    ``cmyk``, with ``+alpha`` where there is any and ``16-bit`` or ``1-bit`` in front.
    """

    kind: str
    width: int
    height: int
    decoded_bytes: int
    orientation: int = 1
    channels: str = "rgb"


def kind_of(start: bytes) -> str | None:
    """The format that the first 512 bytes or so show, or None when they show none that we know.

    >>> kind_of(b"GIF89a")
    'GIF'
    """
    return next((kind for kind, pattern in _PATTERNS if pattern.match(start)), None)


def read_header(data: bytes, kind: str) -> Header:
    """Size and cost of a file of one of the supported kinds.

    Raises:
      UnsupportedError: a variant that the decoder does not read, such as an animated WebP.
      DamagedError: no size can be found.
    """
    readers = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "BMP": _bmp, "WebP": _webp}
    try:
        return readers[kind](data)
    except (struct.error, IndexError) as error:
        raise DamagedError(f"truncated or corrupt {kind}") from error


def _jpeg(data: bytes) -> Header:
    orientation = 1
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            orientation = _orientation(data[start + 6 : end])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, start + 1)
            # A progressive file keeps all coefficients, 2 bytes each, beside the pixels.
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            per_pixel = 3 + (2 * components if progressive else 0)
            return Header(
                kind="JPEG",
                width=width,
                height=height,
                decoded_bytes=width * height * per_pixel,
                orientation=orientation,
                channels={1: "grey", 4: "cmyk"}.get(components, "rgb"),
            )
    raise DamagedError("truncated or corrupt JPEG")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """``(marker, start, end)`` of each segment before the scan; skips junk as libjpeg does."""
    at = 2
    while True:
        at = data.index(b"\xff", at) if b"\xff" in data[at : at + 65536] else len(data)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker == 0xDA or marker == 0xD9:
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        yield marker, at + 2, at + length
        at += max(length, 2)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise DamagedError("truncated or corrupt PNG")
    width, height = struct.unpack_from(">II", data, 16)
    orientation, at = 1, 8
    while at + 8 <= len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        if name == b"eXIf":
            orientation = _orientation(data[at + 8 : at + 8 + length])
        at += 12 + length
    return Header(
        kind="PNG",
        width=width,
        height=height,
        decoded_bytes=width * height * 3,
        orientation=orientation,
        channels=_png_channels(data[24], data[25]),
    )


def _png_channels(depth: int, colour_type: int) -> str:
    """
    >>> _png_channels(16, 6)
    '16-bit rgb+alpha'
    """
    names = {0: "grey", 3: "palette", 4: "grey+alpha", 6: "rgb+alpha"}
    prefix = f"{depth}-bit " if depth in (1, 16) else ""
    return prefix + names.get(colour_type, "rgb")


def _gif(data: bytes) -> Header:
    """The decoder unpacks every frame before it gives the first one, so all of them count."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colour_table(flags)
    unpacked = 0
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            frame_width, frame_height, flags = struct.unpack_from("<HHB", data, at + 5)
            unpacked += frame_width * frame_height
            width, height = max(width, frame_width), max(height, frame_height)
            at = _after_blocks(data, at + 11 + _colour_table(flags))
        else:
            at = _after_blocks(data, at + 2)
    return Header(
        kind="GIF",
        width=width,
        height=height,
        decoded_bytes=unpacked + 3 * width * height,
        channels="palette",
    )


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size < 40:
        raise UnsupportedError("BMP of OS/2")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2):
        raise UnsupportedError("run-length compressed BMP")
    if bits not in (8, 24, 32) or compression not in (0, 3):
        raise UnsupportedError(f"BMP of {bits} bits per pixel")
    width, height = abs(width), abs(height)
    return Header(
        kind="BMP",
        width=width,
        height=height,
        decoded_bytes=width * height * 8,
        channels={8: "palette", 32: "rgb+alpha"}.get(bits, "rgb"),
    )


def _webp(data: bytes) -> Header:
    chunk, orientation, alpha = data[12:16], 1, False
    if chunk == b"VP8X":
        flags = data[20]
        alpha = bool(flags & 0x10)
        if flags & 0x02:
            raise UnsupportedError("animated WebP")
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        at = data.find(b"EXIF", 30) if flags & 0x08 else -1
        if at >= 0:
            orientation = _orientation(data[at + 8 :].removeprefix(b"Exif\0\0"))
    elif chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        alpha = bool(bits >> 28 & 1)
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise DamagedError("truncated or corrupt WebP")
    return Header(
        kind="WebP",
        width=width,
        height=height,
        decoded_bytes=width * height * 8,
        orientation=orientation,
        channels="rgb+alpha" if alpha else "rgb",
    )


def _orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory of an EXIF block; 1 when absent or damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112 and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
