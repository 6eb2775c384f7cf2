"""Keras' backend is TensorFlow, whatever keras.json and the shell say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import tltf

import tltf as library
from tltf import legacy
from tltf.errors import MismatchError


def test_it_is_chosen_before_keras_is_imported(tmp_path: Path) -> None:
    """Also where a family is imported without asking the package for a name."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    program = (
        "from tltf.transfer.terms import DomainTerm; import keras; print(keras.config.backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.split()[-1] == "tensorflow"


def test_a_keras_that_was_imported_on_another_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keras = SimpleNamespace(config=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    for name in ("classifier", "transfer", "adapt"):
        with pytest.raises(MismatchError, match="imported on jax before tltf") as error:
            library.__getattr__(name)
        assert "KERAS_BACKEND=tensorflow" in error.value.next_action
    done = tltf("train", data="digits", backbone="mlp", weights="none", workdir=tmp_path / "run")
    assert done.code == 78
    assert "Keras was imported on jax" in done.last_line
    found = tltf("doctor")
    assert "Keras was imported on jax" in found.out


def test_what_is_imported_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(legacy.BACKEND, "jax")
    legacy.choose_backend()  # keras is imported in this process: too late
    assert os.environ[legacy.BACKEND] == "jax"
    monkeypatch.delitem(sys.modules, "keras")
    legacy.choose_backend()
    assert os.environ[legacy.BACKEND] == "tensorflow"
