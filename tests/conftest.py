"""The suite is offline by construction, and leaves nothing outside its temporary folders."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

LOOPBACK = ("127.", "::1", "localhost")


class NetworkBlockedError(RuntimeError):
    """A test reached for the network. Not an OSError, which the library may handle."""


def pytest_configure(config: pytest.Config) -> None:
    """Own caches for this session, set before anything imports Keras, which reads them then."""
    folder = tempfile.TemporaryDirectory(prefix="tltf-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["TLTF_CACHE_DIR"] = str(Path(folder.name, "cache"))
    os.environ["KERAS_HOME"] = str(Path(folder.name, "keras"))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Every connection but to this machine raises."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(original: Any) -> Any:
    def connect(self: socket.socket, address: Any) -> Any:
        here = self.family == socket.AF_UNIX or str(address[0]).startswith(LOOPBACK)
        if not here:
            raise NetworkBlockedError(f"the tests are offline; something connects to {address}")
        return original(self, address)

    return connect


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and pretrained weights, where there are any."""
    folder = os.environ.get("TLTF_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set TLTF_TEST_DATA to its folder")
    if not Path(folder).is_dir():
        pytest.skip(f"TLTF_TEST_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture
def keras_home(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shared Keras cache, as ``$KERAS_HOME``."""
    source = shared_data / "weights" / "keras_home"
    if not source.is_dir():
        pytest.skip(f"needs pretrained weights: there is no {source}")
    folder = tmp_path / "keras_home"
    shutil.copytree(source, folder)
    monkeypatch.setenv("KERAS_HOME", str(folder))
    return folder
