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


LONGEST_FIRST = (
    "test_readme.py", "test_train.py", "test_demo.py", "test_fit.py", "test_backbones.py",
    "test_text.py", "test_twenty_kills.py", "test_fit_phases.py", "test_adapt.py",
    "test_features.py", "test_interruption.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first, so that two processes end together."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


RUNS = ("cli", "faults", "integration", "stages")
"""Folders of tests that run commands whose pages are not what they look at."""


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


@pytest.fixture(scope="module", autouse=True)
def _one_picture_for_all(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs of something else draw one picture: a dozen in two themes take seconds.

    What the pictures show is tested in tests/evaluation and, by a command, in tests/test_readme.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in RUNS:
            from tltf.evaluation import plots

            draw, drawn = plots._png, []

            def once(figure: Any, **options: Any) -> bytes:
                if not drawn:
                    drawn.append(draw(figure, **options))
                return drawn[0]

            patch.setattr(plots, "_png", once)
        yield


@pytest.fixture(scope="module")
def quick_gate() -> Iterator[None]:
    """For tests of something else: servables are loaded in this process before they are published.

    The gate in processes of its own is tested in tests/serving and tests/integration/test_train.py.
    """
    from same_process import in_this_process

    from tltf.serving import candidate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate, "loaders", in_this_process)
        yield


@pytest.fixture
def gate_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """:func:`quick_gate` for one test."""
    from same_process import in_this_process

    from tltf.serving import candidate

    monkeypatch.setattr(candidate, "loaders", in_this_process)
