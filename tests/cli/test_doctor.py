"""``tltf doctor``: every finding has a level, every bad one a remedy."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from commands import tltf

from tltf import doctor


def test_a_good_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 0)
    found = {finding.about: finding for finding in doctor.findings()}
    expected = {"python", "tensorflow", "keras", "processor", "devices", "weights cache"}
    assert expected | {"tltf cache", "disk here", "temporary", "strace"} <= found.keys()
    assert [f for f in found.values() if f.level == doctor.BAD] == []
    assert found["keras"].says == metadata.version("keras")


def test_what_is_bad_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    versions = {"keras": "2.15.0", "setuptools": "82.0", "tensorflow-hub": "0.16.1"}
    known = metadata.version

    def version(name: str) -> str:
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or known(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(doctor, "_devices", lambda: iter([1 / 0]))
    bad = {f.about: f for f in doctor.findings() if f.level == doctor.BAD}
    wanted = {"keras", "jinja2", "setuptools with tensorflow-hub", "tltf cache"}
    assert wanted <= bad.keys()
    assert all(bad[name].remedy for name in wanted)
    assert "ZeroDivisionError" in " ".join(f.says for f in bad.values())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLTF_CACHE_DIR", str(tmp_path / "cache"))
    done = tltf("doctor")
    assert done.code == 0, done.out
    assert "ok      python: 3." in done.out
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    done = tltf("doctor")
    assert done.code == 64
    assert "unset TF_USE_LEGACY_KERAS" in done.out
    assert "see the remedies above" in done.last_line
