"""Handles: folders, archives, URLs; what is unsafe, altered or unreachable is refused."""

from __future__ import annotations

import functools
import http.server
import io
import os
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tltf.backbones import weights
from tltf.backbones.hub import archives, handles
from tltf.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    InputMissingError,
    SecurityError,
    TltfError,
)

URL = "https://example.org/models/vision/1"
# A local stand-in for the download: what TF Hub's package does, without a network.
STAND_IN = """
import hashlib, os, pathlib, sys
target = pathlib.Path(os.environ["TFHUB_CACHE_DIR"], hashlib.sha1(sys.argv[1].encode()).hexdigest())
(target / "variables").mkdir(parents=True)
(target / "saved_model.pb").write_bytes(b"graph")
(target / "variables" / "data").write_bytes(b"numbers")
with open(os.environ["TLTF_CACHE_DIR"] + "/downloads", "a") as file:
    file.write(sys.argv[1] + chr(10))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TLTF_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def downloads(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], int]]:
    """Puts the stand-in to work and counts its downloads."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(handles, "DOWNLOAD", (sys.executable, "-I", str(script)))
    monkeypatch.setattr(weights, "connect", lambda *_, **__: io.BytesIO())
    log = cache / "downloads"
    yield lambda: len(log.read_text().splitlines()) if log.exists() else 0
    assert "tensorflow_hub" not in sys.modules
    assert "tf_keras" not in sys.modules


def folder_of(path: Path) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"graph")
    (path / "variables" / "data").write_bytes(b"numbers")
    return path


def test_a_folder_is_taken_where_it_is(tmp_path: Path, cache: Path) -> None:
    own = folder_of(tmp_path / "own")
    found = handles.resolve(str(own))
    assert found.folder == own
    assert found.handle == str(own)
    assert found.sha256 == handles.tree_sha256(own)
    assert not (cache / "hub").exists()


def test_the_hash_covers_names_and_contents(tmp_path: Path) -> None:
    one, two = folder_of(tmp_path / "one"), folder_of(tmp_path / "two")
    assert handles.tree_sha256(one) == handles.tree_sha256(two)
    (two / "variables" / "data").rename(two / "variables" / "date")
    assert handles.tree_sha256(one) != handles.tree_sha256(two)
    (one / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="only hold plain files"):
        handles.tree_sha256(one)


def test_bad_handles(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"")
    for handle, kind, message in (
        ("", ArgumentError, "names no module"),
        (str(tmp_path / "none"), InputMissingError, r"no such module.*hub:<folder>"),
        (str(tmp_path / "x.zip"), ArgumentError, r"expected a folder or a \.tar\.gz"),
        ("http://example.org/x", ArgumentError, "is not an https URL"),
        ("gs://bucket/x", ArgumentError, "is not an https URL"),
    ):
        with pytest.raises(kind, match=message):
            handles.resolve(handle)


def archive(path: Path, fill: Callable[[tarfile.TarFile], None]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        fill(file)
    return path


def member(name: str, data: bytes = b"x", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def fill(file: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        file.addfile(info, io.BytesIO(data))

    return fill


def test_an_archive_is_unpacked_once(tmp_path: Path, cache: Path) -> None:
    own = folder_of(tmp_path / "own")
    path = archive(tmp_path / "m.tar.gz", lambda file: file.add(own, arcname="."))
    found = handles.resolve(str(path))
    assert found.sha256 == handles.tree_sha256(own)
    assert found.folder.parent == cache / "hub"
    assert stat.S_IMODE((cache / "hub").stat().st_mode) == 0o700
    path.touch()
    assert handles.resolve(str(path)) == found
    assert not list((cache / "hub").glob(".tmp-*"))


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (member("../evil"), "leaves the folder"),
        (member("a/../../evil"), "leaves the folder"),
        (member("/etc/evil"), "leaves the folder"),
        (member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link or a device"),
        (member("link", b"", type=tarfile.LNKTYPE, linkname="x"), "a link or a device"),
        (member("pipe", b"", type=tarfile.FIFOTYPE), "a link or a device"),
        (member("bomb", b"\0" * 3_000_000), "unpacks to more than"),
        (member("a", pax_headers={"comment": "x" * 3_000_000}), "unpacks to more than"),
    ],
)
def test_an_unsafe_archive_is_refused_as_a_whole(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[tarfile.TarFile], None],
    message: str,
) -> None:
    monkeypatch.setattr(archives, "ROOM_BYTES", 50_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 2)

    def both(file: tarfile.TarFile) -> None:
        member("saved_model.pb")(file)
        fill(file)

    with pytest.raises(SecurityError, match=message):
        handles.resolve(str(archive(tmp_path / "m.tgz", both)))
    left = [path.name for path in (cache / "hub").iterdir() if path.suffix != ".lock"]
    assert left == []
    assert not (tmp_path / "evil").exists()


def test_a_broken_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot read the archive"):
        handles.resolve(str(path))


def test_a_url_is_downloaded_once(cache: Path, downloads: Callable[[], int]) -> None:
    found = handles.resolve(URL)
    assert found.folder == handles.place(URL)
    assert found.handle == URL
    assert handles.resolve(URL) == found
    assert handles.resolve(URL, sha256=found.sha256, download=False) == found
    assert downloads() == 1
    names = {path.name for path in (cache / "hub").iterdir()}
    own = found.folder.name
    assert names == {own, f"{own}.json", f"{own}.lock"}


def test_two_first_downloads_are_one(downloads: Callable[[], int]) -> None:
    found: list[handles.Resolved] = []
    threads = [
        threading.Thread(target=lambda: found.append(handles.resolve(URL))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 3
    assert downloads() == 1


@pytest.mark.parametrize("change", ["alter", "remove", "add"])
def test_an_altered_module_is_named(downloads: Callable[[], int], change: str) -> None:
    found = handles.resolve(URL)
    path = found.folder / "variables" / "data"
    if change == "remove":
        path.unlink()
    else:
        (path if change == "alter" else path.with_name("more")).write_bytes(b"other")
    with pytest.raises(DataError) as error:
        handles.resolve(URL)
    assert str(found.folder) in str(error.value)
    assert found.sha256 in str(error.value)


def test_one_put_there_by_hand(cache: Path) -> None:
    with pytest.raises(TltfError) as error:
        handles.resolve(URL, download=False)
    folder = folder_of(handles.place(URL))
    assert str(folder) in str(error.value)
    found = handles.resolve(URL)
    (folder / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(DataError, match=found.sha256):
        handles.resolve(URL)


def test_a_cache_that_others_can_write_to_is_refused(cache: Path) -> None:
    handles.hub_folder().chmod(0o770)
    with pytest.raises(SecurityError, match=r"not this user's alone.*chmod 700"):
        handles.resolve(URL)


def test_a_failed_download_leaves_nothing(
    cache: Path, downloads: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "failing.py"
    script.write_text("raise SystemExit('no such module')")
    monkeypatch.setattr(handles, "DOWNLOAD", (sys.executable, "-I", str(script)))
    with pytest.raises(DownloadError, match=f"{URL}: no such module"):
        handles.resolve(URL)
    assert [path.suffix for path in (cache / "hub").iterdir()] == [".lock"]


def test_offline_is_quick_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(socket.socket, "connect", never)
    started = time.monotonic()
    with pytest.raises(DownloadError) as error:
        handles.resolve(URL)
    assert time.monotonic() - started < 10
    assert URL in str(error.value)
    assert str(handles.place(URL)) in str(error.value)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def translate_path(self, path: str) -> str:
        return str(Path(self.directory, "m.tar.gz"))


@pytest.mark.slow
def test_tf_hub_itself_downloads_in_a_process_of_its_own(tmp_path: Path) -> None:
    own = folder_of(tmp_path / "own")
    archive(tmp_path / "m.tar.gz", lambda file: file.add(own, arcname="."))
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/models/vision/1"
        found = handles.resolve(url)
        server.shutdown()
    assert (found.folder / "saved_model.pb").read_bytes() == b"graph"
    assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
    assert not {"tensorflow_hub", "tf_keras"} & set(sys.modules)


@pytest.mark.slow
def test_resolving_imports_no_second_keras(tmp_path: Path) -> None:
    own = folder_of(tmp_path / "own")
    code = (
        "import sys; from tltf.backbones.hub import handles; handles.resolve(sys.argv[1]);"
        "assert not {'tf_keras', 'tensorflow_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(own)], check=True, env=dict(os.environ))


def test_a_python_without_filters_unpacks_what_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.0 to 3.11.3, which Debian 12 has."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    given: dict[str, object] = {}
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **more: given.update(more))
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        archives.extract(file, tmp_path)
    assert given == {}
