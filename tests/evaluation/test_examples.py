"""The examples in the docstrings run and are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("calibration", "evaluate", "intervals", "metrics", "rejection", "report", "verdict")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"tltf.evaluation.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
