"""Folders of pictures, each with a content of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import encoded, pixels
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def make_picture() -> Callable[..., Path]:
    """``make_picture(path, seed)`` writes a PNG of noise; its content depends on the seed only."""

    def make(path: Path, seed: int = 0, kind: str = "PNG", **shape: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(pixels(seed, **shape)), kind))
        return path

    return make


@pytest.fixture
def photos(tmp_path: Path, make_picture: Callable[..., Path]) -> Path:
    """A folder of 30 cats and 20 dogs."""
    for i in range(50):
        name = "cat" if i < 30 else "dog"
        make_picture(tmp_path / "photos" / name / f"{i:02d}.png", i)
    return tmp_path / "photos"
