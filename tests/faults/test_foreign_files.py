"""X1, X4, X5, X10: what a person passes is data, and nothing in it is executed or followed."""

from __future__ import annotations

import io
import json
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

import tltf
from tltf.backbones import architecture, foreign, tensorfiles
from tltf.cli import quiet
from tltf.errors import DataError, MismatchError, SecurityError


def weights(path: Path) -> h5py.File:
    file = h5py.File(path, "w")
    file["layers/dense/vars/0"] = np.ones((2, 3), "float32")
    return file


def test_plain_weights_are_listed(tmp_path: Path) -> None:
    with weights(tmp_path / "w.h5") as file:
        file["optimizer/vars/0"] = np.ones(7)
    assert foreign.stored_shapes(tmp_path / "w.h5") == [("layers/dense/vars/0", (2, 3))]


def external_link(file: h5py.File) -> None:
    file["layers/other"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["layers/other"] = h5py.SoftLink("/layers/dense")


def external_data(file: h5py.File) -> None:
    file.create_dataset("layers/x", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("layers/x", layout)


def shape_bomb(file: h5py.File) -> None:
    file.create_dataset("layers/x", (1 << 40,), "f4", chunks=(1 << 20,))


def packed_bomb(file: h5py.File) -> None:
    file.create_dataset("layers/x", data=np.zeros(1 << 23, "f4"), compression="gzip")


def objects(file: h5py.File) -> None:
    file.create_dataset("layers/x", data=[b"pickle"], dtype=h5py.special_dtype(vlen=bytes))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (external_link, "is a link"),
        (soft_link, "is a link"),
        (external_data, "lies in other files"),
        (virtual, "lies in other files"),
        (shape_bomb, "is not in the file"),
        (packed_bomb, "is not in the file"),
        (objects, "holds objects"),
    ],
)
def test_hdf5_that_is_more_than_arrays_is_refused(tmp_path: Path, spoil: Any, why: str) -> None:
    with weights(tmp_path / "w.h5") as file:
        spoil(file)
    with pytest.raises(SecurityError, match=why) as error:
        foreign.stored_shapes(tmp_path / "w.h5")
    assert error.value.exit_code == 77


def test_a_circle_of_groups_ends(tmp_path: Path) -> None:
    with weights(tmp_path / "w.h5") as file:
        file["layers/dense/again"] = file["layers"]
    assert len(foreign.stored_shapes(tmp_path / "w.h5")) == 1


def archive(path: Path, *, name: str = "x", data: bytes = b"x", mode: int = 0) -> Path:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 3), "float32")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("model.weights.h5", buffer.getvalue())
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        packed.writestr(entry, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"name": "../../evil"}, "leaves the archive"),
        ({"name": "/etc/evil"}, "leaves the archive"),
        ({"name": "a\\..\\..\\evil"}, "leaves the archive"),
        ({"name": "C:/evil"}, "leaves the archive"),
        ({"name": "link", "data": b"/etc/passwd", "mode": 0o120777}, "is a link"),
        ({"name": "model.weights.h5"}, "twice"),
        ({"name": "bomb", "data": bytes(1 << 26)}, "is a bomb"),
    ],
)
def test_an_archive_is_refused_as_a_whole(tmp_path: Path, entry: dict[str, Any], why: str) -> None:
    assert foreign.stored_shapes(archive(tmp_path / "good.keras", name="config.json"))
    with pytest.raises(SecurityError, match=why):
        foreign.stored_shapes(archive(tmp_path / "w.keras", **entry))


def test_damaged_files_are_data_errors(tmp_path: Path) -> None:
    for name in ("w.h5", "w.keras"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 50)
        with pytest.raises(DataError, match="damaged weights file"):
            foreign.stored_shapes(tmp_path / name)


def test_programs_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(SecurityError, match=r"a SavedModel is a program.*--backbone=hub:"):
        foreign.check_kind(tmp_path)
    np.save(tmp_path / "w.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("w.npy", "w.pt", "w.pkl"):
        (tmp_path / name).touch()
        with pytest.raises(SecurityError, match="pickled objects"):
            foreign.check_kind(tmp_path / name)


def written(folder: Path, layer: dict[str, Any]) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({"class_name": "Functional", "config": {"layers": [layer]}}))
    return path


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "keras.layers", "class_name": "Lambda", "config": {}},
        {"module": "keras.layers", "class_name": "Dense", "config": {"activation": {
            "module": "builtins", "class_name": "function", "config": "eval"}}},
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "keras.utils", "class_name": "get_file", "config": {}},
        {"module": "kerasevil.layers", "class_name": "Dense", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "4wAA"}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/x"}},
    ],
)  # fmt: skip
def test_an_architecture_names_no_code(tmp_path: Path, layer: dict[str, Any]) -> None:
    with pytest.raises(SecurityError, match="would run"):
        architecture.read(written(tmp_path, layer))


def test_layers_of_keras_and_tltf_are_fine(tmp_path: Path) -> None:
    for module in ("keras.layers", "tltf.backbones.layers", "keras.src.models.functional", None):
        assert architecture.read(written(tmp_path, {"module": module, "class_name": "Dense"}))


def test_layers_that_keras_own_networks_bring_along_are_known(tmp_path: Path) -> None:
    for layer in (
        keras.applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3)),
        keras.applications.InceptionResNetV2(
            weights=None, include_top=False, input_shape=(75, 75, 3)
        ),
    ):
        (tmp_path / "a.json").write_text(layer.to_json())
        assert architecture.read(tmp_path / "a.json")
    module = keras.applications.ConvNeXtTiny.__module__
    network = {"module": module, "class_name": "ConvNeXtTiny", "config": {}}
    with pytest.raises(SecurityError):
        architecture.read(written(tmp_path, network))


def test_keras_2_in_the_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf_keras", types.ModuleType("tf_keras"))
    with pytest.raises(MismatchError, match=r"tf_keras .* is imported") as error:
        tltf.__getattr__("classifier")
    assert error.value.exit_code == 78
    monkeypatch.delitem(sys.modules, "tf_keras")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(MismatchError, match="unset TF_USE_LEGACY_KERAS"):
        quiet.import_tensorflow()
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    quiet.legacy.refuse()


def test_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}).encode()
    data = np.array([1.0, 1e300]).tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(DataError, match="w holds numbers beyond float32"):
        np.asarray(tensorfiles.open_folder(tmp_path)["w"])
