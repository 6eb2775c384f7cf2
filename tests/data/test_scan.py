"""The scan names every bad file with its reason, and refuses bombs before decoding them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from pictures import encoded, pixels
from PIL import Image

from tltf.backbones.hub.archives import extract
from tltf.data.headers import kind_of, read_header
from tltf.data.manifest import BadInputsError, Excluded, Manifest, Record
from tltf.data.scan import apply_policy, find_unreadable, scan
from tltf.data.sources import load

RGB = Image.fromarray(pixels(1))
LIMIT = 64_000_000


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(pixels(i)) for i in (1, 2)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def scanned(tmp_path: Path, *files: bytes, name: str = "f{}.jpg", limit: int = LIMIT) -> Manifest:
    records = []
    for i, data in enumerate(files):
        path = tmp_path / name.format(i)
        path.write_bytes(data)
        records.append(Record(id=path.name, path=str(path), label="a"))
    manifest = Manifest(task="single_label", classes=("a",), records=tuple(records))
    return scan(manifest, max_image_pixels=limit)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "not an image: starts with '<!DOCTYPE'"),
        (b"\x00\x05\x16\x07\x00", "not an image: starts with bytes 00 05 16 07"),
        (b"\x1b[31m red", "not an image: starts with bytes 1b 5b 33 31"),
        (encoded(RGB, "JPEG")[:-80], "truncated or corrupt JPEG"),
        (b"\xff\xd8\xff\xe0", "truncated or corrupt JPEG"),
        (b"\xff\xd8\xff" + b"\0" * 100_000, "truncated or corrupt JPEG"),
        (encoded(RGB, "PNG")[:-80], "truncated or corrupt PNG"),
        (encoded(RGB, "PNG")[:14], "truncated or corrupt PNG"),
        (encoded(RGB, "GIF")[:-80], "truncated or corrupt GIF"),
        (encoded(RGB, "WEBP")[:-80], "truncated or corrupt WebP"),
        (encoded(RGB, "WEBP")[:16], "truncated or corrupt WebP"),
        (encoded(RGB, "BMP")[:-80], "truncated or corrupt BMP"),
        (encoded(RGB, "TIFF"), "unsupported format: TIFF"),
        (encoded(RGB, "JPEG2000"), "unsupported format: JPEG 2000"),
        (encoded(RGB, "PPM"), "unsupported format: Netpbm"),
        (encoded(RGB, "ICO"), "unsupported format: Windows icon"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 20, "unsupported format: HEIC"),
        (b"%PDF-1.7", "unsupported format: PDF"),
        (b'<?xml version="1.0"?><svg>', "unsupported format: SVG"),
        (animated("WEBP"), "unsupported format: animated WebP"),
        (encoded(RGB.convert("1"), "BMP"), "unsupported format: BMP of 1 bits per pixel"),
        (png_header(20000, 20000), "too large: 20000x20000 pixels, limit 64000000"),
        (png_header(0, 5), "truncated or corrupt PNG"),
    ],
)
def test_every_bad_file_has_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    result = scanned(tmp_path, data)
    assert result.records == ()
    assert result.excluded == (Excluded(id="f0.jpg", outcome="bad", reason=reason),)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_good_files_get_the_hash_of_their_bytes(tmp_path: Path, kind: str) -> None:
    data = encoded(RGB, kind)
    result = scanned(tmp_path, data, animated("GIF"))
    assert result.records[0].sha256 == hashlib.sha256(data).hexdigest()
    assert len(result.records) == 2
    header = read_header(data, kind_of(data) or "")
    assert (header.width, header.height) == RGB.size


def test_the_pixel_limit_is_about_the_header(tmp_path: Path) -> None:
    files = [encoded(RGB, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    reasons = {x.reason for x in scanned(tmp_path, *files, limit=191).excluded}
    assert reasons == {"too large: 16x12 pixels, limit 191"}
    assert not scanned(tmp_path, *files, limit=192).excluded


def test_a_small_file_may_not_unpack_to_hundreds_of_megabytes(tmp_path: Path) -> None:
    grey = Image.new("L", (32, 32))
    progressive = bytearray(encoded(grey.convert("RGB"), "JPEG", progressive=True))
    at = progressive.index(b"\xff\xc2")
    progressive[at + 5 : at + 9] = struct.pack(">HH", 7900, 8000)
    result = scanned(tmp_path, bytes(progressive))
    assert result.excluded[0].reason.startswith("too large: 8000x7900 pixels, 542 MB to decode")


def test_wrong_extensions_and_exif_turns_are_notes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(RGB, kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "WEBP")]
    result = scanned(tmp_path, *files, encoded(RGB, "JPEG"))
    assert len(result.records) == 4
    assert "ignored everywhere alike; 3 file(s) carry one" in result.notes[0]
    assert result.notes[1] == (
        "2 file(s) have another extension than their content, which counts: f1.jpg is a PNG"
    )


def test_progress_is_told(tmp_path: Path, photos: Path) -> None:
    told: list[tuple[int, int]] = []
    scan(load(str(photos)), max_image_pixels=LIMIT, progress=lambda *x: told.append(x), threads=2)
    assert told == [(i + 1, 50) for i in range(50)]


def test_texts_are_hashed(tmp_path: Path) -> None:
    text = Record(id="t", text="grün", label="a")
    manifest = Manifest(task="single_label", classes=("a",), records=(text,))
    result = scan(manifest, max_image_pixels=1)
    assert result.records[0].sha256 == hashlib.sha256("grün".encode()).hexdigest()


def test_vanished_files_and_pipes_are_bad(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    records = tuple(
        Record(id=n, path=str(tmp_path / n), label="a") for n in ("pipe.png", "none.png")
    )
    result = scan(
        Manifest(task="single_label", classes=(), records=records), max_image_pixels=LIMIT
    )
    assert [x.reason for x in result.excluded] == [
        "not a regular file",
        "cannot be read: No such file or directory",
    ]


def test_the_policy(tmp_path: Path) -> None:
    good = [encoded(Image.fromarray(pixels(i)), "PNG") for i in range(95)]
    manifest = scanned(tmp_path, *good, *[b"bad"] * 5, name="{}.png")
    with pytest.raises(BadInputsError, match=r"5 of 100 inputs are bad: .*95\.png") as caught:
        apply_policy(manifest)
    assert len(caught.value.excluded) == 5
    assert "--bad_files=skip" in str(caught.value)
    with pytest.raises(BadInputsError, match=r"more than max_bad_fraction 0\.04"):
        apply_policy(manifest, bad_files="skip", max_bad_fraction=0.04)
    skipped = apply_policy(manifest, bad_files="skip", max_bad_fraction=0.05)
    assert len(skipped.records) == 95
    assert skipped.notes[-1].startswith("skipped 5 bad of 100 inputs: 95.png (not an image")
    clean = scanned(tmp_path, good[0])
    assert apply_policy(clean) is clean


def test_find_unreadable_without_a_hash_decodes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "b.png").write_bytes(b"no")
    records = [Record(id=n, path=str(tmp_path / n), label="a") for n in ("a.png", "b.png")]
    assert [x.id for x in find_unreadable(records)] == ["b.png"]


DECODES = ("decode to", "decode pixels, ignore", "convert", "drop", "as above")


def test_fifty_awkward_files(tmp_path: Path) -> None:
    archive = Path(os.environ.get("TLTF_TEST_DATA", "")) / "nasty" / "public.tar.gz"
    if not os.environ.get("TLTF_TEST_DATA") or not archive.is_file():
        pytest.skip("needs TLTF_TEST_DATA/nasty/public.tar.gz")
    with tarfile.open(archive) as tar:
        extract(tar, tmp_path)
    table = json.loads(next(tmp_path.rglob("MANIFEST.json")).read_text())["files"]
    root = next(tmp_path.rglob("MANIFEST.json")).parent
    result = scan(load(str(root)), max_image_pixels=LIMIT)
    outcomes = {r.id: "ok" for r in result.records}
    outcomes |= {x.id: f"{x.outcome}: {x.reason}" for x in result.excluded}
    assert outcomes.keys() == {entry["file"] for entry in table} | {"MANIFEST.json"}
    for entry in table:
        outcome, expected = outcomes[entry["file"]], entry["expected"]
        if expected.startswith(("refuse", "clear unsupported")):
            assert outcome.startswith("bad: "), entry
        if expected.startswith(
            ("decode to", "decode pixels, ignore", "convert", "drop", "as above")
        ):
            assert outcome == "ok", entry
        if expected.startswith("skip"):
            assert outcome == "ignored: hidden or system file", entry
    assert outcomes["synthetic/bomb_20000x20000_1bit.png"] == (
        "bad: too large: 20000x20000 pixels, limit 64000000"
    )
    assert sum(outcome == "ok" for outcome in outcomes.values()) == 27
