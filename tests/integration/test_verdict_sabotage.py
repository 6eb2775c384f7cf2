"""The verdict through real trainings: where there is nothing to transfer it does not say so."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import tltf
from pictures import digit_pngs, write_digit_folder

from experiments import digit_folders
from tltf.backbones.hub.archives import extract

pytestmark = pytest.mark.slow

DIGITS: dict[str, Any] = {
    "image_size": 8, "head_epochs": 10, "tune_epochs": 20, "augment": "none", "export": "none",
    "early_stop": 0, "restore": "last",
}  # fmt: skip
OWN_SPLIT = {"val_fraction": 0.15, "test_fraction": 0.6}


def verdict_of(run: Path) -> dict[str, Any]:
    """After ``tltf compare`` with three seeds."""
    done = tltf("compare", run=run, seeds=3)
    assert done.code == 0, done.err
    found = json.loads((run / "report/report.json").read_text())
    print(run.name, found["verdict"]["sentence"])
    return found["verdict"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that learned the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("source")
    data = write_digit_folder(folder / "digits", range(5), 170)
    done = tltf("pretrain", data=data, workdir=folder / "run", scratch_epochs=15, image_size=8,
                export="none")  # fmt: skip
    assert done.code == 0, done.err
    return folder / "run"


def test_shuffled_labels_have_no_detectable_difference(source: Path, tmp_path: Path) -> None:
    pictures = [png for files in digit_pngs(range(5, 10), 60).values() for png in files]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 60))
    for i, (png, label) in enumerate(zip(pictures, labels, strict=True)):
        (tmp_path / "shuffled" / f"class{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "shuffled" / f"class{label}" / f"{i}.png").write_bytes(png)
    done = tltf("train", data=tmp_path / "shuffled", backbone=f"file:{source}",
                workdir=tmp_path / "run", **DIGITS, **OWN_SPLIT)  # fmt: skip
    assert done.code == 0, done.err
    found = verdict_of(tmp_path / "run")
    assert found["kind"] == "no_difference"
    assert found["sentence"].startswith("no detectable difference")


def test_digits_of_another_hand_help_where_labels_are_few(
    shared_data: Path, tmp_path: Path
) -> None:
    """MNIST to USPS, four labels a class: the one case here in which transfer has to help."""
    npz = shared_data / "images/digits_mnist_usps/public.npz"
    mnist, usps = digit_folders.write(npz, tmp_path)
    done = tltf("pretrain", data=mnist, workdir=tmp_path / "mnist", scratch_epochs=12,
                image_size=16, export="none")  # fmt: skip
    assert done.code == 0, done.err
    lines = ["path,label,split"]
    for digit in range(10):
        files = sorted((usps / str(digit)).iterdir())[:79]
        splits = ["train"] * 4 + ["val"] * 3 + ["test"] * 72
        lines += [f"{file},{digit},{split}" for file, split in zip(files, splits, strict=True)]
    (tmp_path / "usps.csv").write_text("\n".join(lines) + "\n")
    done = tltf("train", data=tmp_path / "usps.csv", backbone=f"file:{tmp_path / 'mnist'}",
                workdir=tmp_path / "run", image_size=16, tune_epochs=20, augment="none",
                export="none", early_stop=0, restore="last")  # fmt: skip
    assert done.code == 0, done.err
    found = verdict_of(tmp_path / "run")
    assert found["kind"] == "helps"
    assert found["sentence"].startswith("transfer helps by")


def test_permuted_weights_do_not_help(keras_home: Path, shared_data: Path, tmp_path: Path) -> None:
    """A real network whose every tensor is shuffled: as good as none."""
    [weights] = keras_home.glob("models/mobilenet_v2*_1.0_224_no_top.h5")
    permuted = tmp_path / "permuted.h5"
    shutil.copy(weights, permuted)
    rng = np.random.default_rng(0)

    def shuffle(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            item[...] = rng.permutation(item[...].reshape(-1)).reshape(item.shape)

    with h5py.File(permuted, "r+") as file:
        file.visititems(shuffle)
    with tarfile.open(next((shared_data / "images/cats_dogs").glob("public.tar*"))) as archive:
        extract(archive, tmp_path)
    done = tltf("train", data=tmp_path / "cats_dogs", backbone="MobileNetV2", weights=permuted,
                workdir=tmp_path / "run", image_size=96, head_epochs=5, tune_epochs=5,
                augment="none", export="none")  # fmt: skip
    assert done.code == 0, done.err
    assert verdict_of(tmp_path / "run")["kind"] != "helps"
