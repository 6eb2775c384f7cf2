"""Decoding in child processes: a crash is one file's, and nothing is decoded twice."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, pixels
from PIL import Image, ImageEnhance

from tltf.data import decoders, scancache
from tltf.data.decoding import decode, decode_kind
from tltf.data.manifest import Manifest, Record
from tltf.data.perceptual import NEAR, fingerprint, near_pairs
from tltf.data.scan import examine

LIMIT = 64_000_000


def manifest_of(*paths: Path) -> Manifest:
    records = tuple(Record(id=p.name, path=str(p), label="a") for p in paths)
    return Manifest(task="single_label", classes=("a",), records=records)


def old(path: Path, data: bytes) -> Path:
    """A file that was not written just now, so that its state may be kept."""
    path.write_bytes(data)
    return path


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def unread(fd: int) -> int:
    """Bytes that were sent and not yet taken by the other side."""
    return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.fixture(scope="module")
def workers() -> Iterator[decoders.Decoders]:
    """One worker, which serves the scans of this file too."""
    before = decoders._started[:]
    decoders._started[:] = [decoders.Decoders(1)]
    yield decoders._started[0]
    decoders._started[:] = before


def test_the_file_that_crashes_the_decoder_is_named(workers: decoders.Decoders) -> None:
    data = encoded(Image.fromarray(pixels(1)), "JPEG")
    assert workers.decode(data)["hash"] == ""
    (worker,) = children(workers.pid)
    slow = encoded(Image.new("L", (6000, 6000)), "PNG")
    answers: list[dict] = []
    thread = threading.Thread(target=lambda: answers.append(workers.decode(slow)))
    connection = workers._free.queue[0]
    os.kill(worker, signal.SIGSTOP)
    thread.start()
    while not unread(connection.fileno()) > len(slow):
        time.sleep(0.001)
    os.kill(worker, signal.SIGCONT)
    while unread(connection.fileno()):
        time.sleep(0.001)
    os.kill(worker, signal.SIGKILL)
    thread.join(timeout=20)
    assert answers == [{"crashed": "SIGKILL"}]
    # The next file finds a new worker.
    assert workers.decode(data)["said"] == ""
    assert children(workers.pid) != [worker]


def test_a_worker_may_not_eat_the_memory() -> None:
    code = "from tltf.data import decoder_process as d; d._limit_memory(); bytearray(2 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("MemoryError")


def test_a_crash_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing:
        def decode(self, data: bytes) -> dict:
            return {"crashed": "SIGSEGV"}

    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoders, "decoders", Crashing)
    path = old(tmp_path / "a.png", encoded(Image.fromarray(pixels(77)), "PNG"))
    found = examine(manifest_of(path), max_image_pixels=LIMIT)
    assert found.manifest.excluded[0].reason == "the decoder crashed (SIGSEGV) on this PNG"


@pytest.mark.usefixtures("workers")
def test_a_complaint_of_the_decoder_makes_a_file_suspect(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.fromarray(pixels(5, height=64, width=64)), "JPEG"))
    at = data.index(b"\xff\xda")
    data[at:at] = bytes(5)
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(data))
    found = examine(manifest_of(path), max_image_pixels=LIMIT)
    assert found.findings["a.jpg"].suspect.startswith("Corrupt JPEG data")
    assert "decode with a complaint" in found.manifest.notes[0]


def test_nothing_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(scancache, "SETTLED_SECONDS", -1.0)
    path = old(tmp_path / "a.png", encoded(Image.fromarray(pixels(6, height=40, width=40)), "PNG"))
    first = examine(manifest_of(path), max_image_pixels=LIMIT)
    copy = old(tmp_path / "copy.png", path.read_bytes())

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoders, "decoders", refuse)
    again = examine(manifest_of(path, copy), max_image_pixels=LIMIT)
    assert again.findings["a.png"] == first.findings["a.png"] == again.findings["copy.png"]
    # Neither is it read again.
    path.chmod(0o600)
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert examine(manifest_of(path), max_image_pixels=10).manifest.excluded[0].reason == (
        "too large: 40x40 pixels, limit 10"
    )
    # A file that changed within its size and time is another file.
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1
    path.write_bytes(bytes(changed))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(AssertionError, match="decoded again"):
        examine(manifest_of(path), max_image_pixels=LIMIT)


def test_a_file_of_this_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(pixels(6)), "PNG"))
    examine(manifest_of(path), max_image_pixels=LIMIT)
    with scancache.opened() as cache:
        assert cache.sha256_of(str(path), path.stat()) is None


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(pixels(6)), "PNG"))
    assert examine(manifest_of(path), max_image_pixels=LIMIT).manifest.records
    (file,) = (tmp_path / "cache").glob("scan-*.sqlite")
    file.write_bytes(b"nothing of the kind" * 100)
    assert examine(manifest_of(path), max_image_pixels=LIMIT).manifest.records
    assert sqlite3.connect(file).execute("SELECT COUNT(*) FROM contents").fetchone() == (1,)
    file.unlink()
    file.mkdir()
    assert examine(manifest_of(path), max_image_pixels=LIMIT).manifest.records


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_short_way_decodes_alike(kind: str) -> None:
    data = encoded(Image.fromarray(pixels(3)), kind)
    name = "WebP" if kind == "WEBP" else kind
    short, whole = decode_kind(tf.constant(data), name), decode(tf.constant(data))
    np.testing.assert_array_equal(short, whole)


def test_pictures_look_alike_or_not() -> None:
    picture = Image.fromarray(pixels(1, height=6, width=6)).resize((200, 150), 3)
    others = [Image.fromarray(pixels(i, height=6, width=6)).resize((200, 150), 3) for i in (2, 3)]
    again = Image.open(io.BytesIO(encoded(picture, "JPEG", quality=40)))
    small = picture.resize((64, 64), 3)
    bright = ImageEnhance.Brightness(picture).enhance(0.8)
    prints = [fingerprint(np.asarray(x)) for x in (picture, *others, again, small, bright)]
    pairs = near_pairs(prints)
    assert {(i, j) for i, j, _ in pairs} == {
        (i, j) for i in (0, 3, 4, 5) for j in (0, 3, 4, 5) if i < j
    }
    assert all(cosine >= NEAR for _, _, cosine in pairs)
    assert near_pairs(prints, groups=[0, 0, 0, 1, 0, 0])[0][:2] in {(0, 3), (3, 4), (3, 5)}
    assert near_pairs(["", prints[0], ""]) == []


def test_near_pairs_equal_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (30, 8, 8, 3), np.uint8)
    images = [np.asarray(Image.fromarray(b).resize((48, 48), 3)) for b in (*base, *base[:5])]
    prints = [fingerprint(image) for image in images]
    vectors = [np.frombuffer(base64.b64decode(p), np.int8) * 1.0 for p in prints]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    slow = {
        (i, j)
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
        if cosine(vectors[i], vectors[j]) >= 0.5
    }
    assert {(i, j) for i, j, _ in near_pairs(prints, near=0.5)} == slow
    assert {(i, 30 + i) for i in range(5)} <= slow


def test_the_children_end_with_their_sockets(workers: decoders.Decoders) -> None:
    data = encoded(Image.fromarray(pixels(1)), "PNG")
    assert workers.decode(data, thumbnail=16)["thumbnail"]
    (worker,) = children(workers.pid)
    workers._free.get().close()
    workers.process.wait(timeout=20)
    assert not Path(f"/proc/{worker}").exists()
