"""One module of each published format for all tests here."""

from __future__ import annotations

from pathlib import Path

import hub_modules
import pytest


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``keras2``, ``vision``, ``encoder``, ``sentence``, ``serving``, ``tf1`` to their folders."""
    folder = tmp_path_factory.mktemp("modules")
    names = ("keras2", "vision", "encoder", "sentence", "serving", "tf1")
    return {name: getattr(hub_modules, name)(folder / name) for name in names}
