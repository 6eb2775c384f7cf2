"""S4, S5: one flipped bit or a missing file in any artifact is found before it is used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from faults import writer

from tltf import rundir, sealed, storage
from tltf.errors import InputMissingError, StorageError, TltfError
from tltf.rundir import RunDir
from tltf.spec import BackboneSpec, DataSpec, TransferSpec
from tltf.training import statefiles
from tltf.training.featurestore import FeatureStore

FLIPS = 200
KEY = "ab12/plain"


def store(folder: Path) -> FeatureStore:
    return FeatureStore(folder / "features", "0" * 64, shapes=[(4,)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, and a feature store in it, made without TensorFlow."""
    logging.set_verbosity(logging.FATAL)
    folder = tmp_path_factory.mktemp("flips") / "run"
    writer.prepare(folder)
    with rundir.opened(folder) as run:
        spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="VGG16"))
        run.commit(run.spec, spec.to_json())
        run.commit(run.env, '{"keras": "3"}\n')
        run.commit(run.manifest, '{"task": "single_label"}\n')
        run.commit(run.history, '{"epoch": 1}\n', finished=True)
        with sealed.committed(run.report) as report:
            storage.write_json(report / "report.json", {"metrics": {}})
            storage.write_text(report / "report.html", "<html>")
        with store(folder).writer() as rows:
            rows.append([KEY], [np.ones((1, 4))])
    return folder


def refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except (StorageError, InputMissingError):
        return True
    return False


def noticed(folder: Path, name: str) -> bool:
    """Whether the reader of that artifact refuses it, or falls back on an older one."""
    run, kind = RunDir(folder), name.split("/")[0]
    if kind == "state":
        newest = statefiles.newest(run.states)
        return bool(list(run.states.glob("damaged-*"))) and newest is not None
    if kind == "features":
        return KEY not in store(folder)
    if kind == "export":
        version = folder / "export" / name.split("/")[1]
        return refused(lambda: sealed.verify(version))
    if kind in ("weights", "report"):
        return refused(lambda: sealed.verify(folder / kind))
    if kind == "progress.json":
        return refused(run.stage)
    return refused(lambda: run.read_committed(folder / kind))


def artifacts(folder: Path) -> list[str]:
    newest = max(p.name for p in (folder / "state").iterdir())
    # .verified.json only spares a hash that was checked already: without it all is hashed again
    left_out = ("mine.txt", ".lock", "used", "error.json", ".verified.json")
    return [
        name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
        if not (name := str(path.relative_to(folder))).startswith("state/") or newest in name
    ]


def test_two_hundred_flipped_bits_are_all_found(whole: Path, tmp_path: Path) -> None:
    generator, names = random.Random(4), artifacts(whole)
    assert {n.split("/")[0] for n in names} == {
        *("spec.json", "env.json", "manifest.jsonl", "history.jsonl", "progress.json"),
        *("state", "weights", "report", "export", "features"),
    }
    missed = []
    for i in range(FLIPS):
        name, folder = names[i % len(names)], tmp_path / str(i)
        shutil.copytree(whole, folder)
        data = bytearray((folder / name).read_bytes())
        bit = generator.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)
        if not noticed(folder, name):
            missed.append((name, bit))
        shutil.rmtree(folder)
    assert missed == []


@pytest.mark.parametrize("cut", [None, 0.5])
def test_what_is_missing_or_cut_is_found(whole: Path, tmp_path: Path, cut: float | None) -> None:
    for name in artifacts(whole):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(whole, folder)
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        if cut is not None:
            (folder / name).write_bytes(data[: int(len(data) * cut)])
        if name == "progress.json" and cut is None:
            with pytest.raises(TltfError):
                rundir.existing(folder)
        else:
            assert noticed(folder, name), name


def test_a_damaged_state_stays_aside_and_the_one_before_is_used(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = max((folder / "state").iterdir())
    for _ in range(2):  # a second damaged one of the same name has a place too
        (newest / "tensors.safetensors").write_bytes(b"")
        found = statefiles.newest(folder / "state")
        assert found is not None
        assert found.steps_done == 1
        statefiles.write(folder / "state", writer.state(2))
    assert len(list((folder / "state").glob("damaged-*"))) == 2
