"""From one .npz file of digits to two image folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import digit_folders
from tltf.errors import DataError, InputMissingError

Arrays = dict[str, np.ndarray]


def test_each_image_is_written_once_under_its_digit(tmp_path: Path, digits_npz: Path) -> None:
    arrays = np.load(digits_npz)
    mnist, usps = digit_folders.write(digits_npz, tmp_path)
    assert len(list(mnist.glob("*/*.png"))) == len(arrays["mnist_y"])
    digit = str(arrays["usps_y"][3])
    pixels = np.asarray(Image.open(usps / digit / "0003.png"))
    np.testing.assert_array_equal(pixels, np.floor(arrays["usps_x"][3] * 255 + 0.5))
    digit = str(arrays["mnist_y"][5])
    pixels = np.asarray(Image.open(mnist / digit / "0005.png"))
    np.testing.assert_array_equal(pixels, arrays["mnist_x"][5])
    before = (usps / digit).stat().st_mtime_ns
    assert digit_folders.write(digits_npz, tmp_path) == (mnist, usps)
    assert (usps / digit).stat().st_mtime_ns == before


def _pickled(arrays: Arrays) -> None:
    arrays["mnist_y"] = np.array([object()] * len(arrays["mnist_y"]))


def _short(arrays: Arrays) -> None:
    arrays["mnist_y"] = arrays["mnist_y"][:-1]


def _bright(arrays: Arrays) -> None:
    arrays["usps_x"] = arrays["usps_x"] * 255


def _letters(arrays: Arrays) -> None:
    arrays["usps_y"] = arrays["usps_y"] + 30


def _wide(arrays: Arrays) -> None:
    arrays["mnist_x"] = arrays["mnist_x"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickled, "allow_pickle=False"),
        (_short, r"mnist_x\[\d+, 28, 28\] with mnist_y"),
        (_bright, r"outside \[0, 1\]"),
        (_letters, "usps_x.* with usps_y"),
        (_wide, "mnist_x float64"),
        (lambda arrays: arrays.pop("usps_x"), "usps_x"),
    ],
)
def test_another_content_is_refused(
    tmp_path: Path, digits_npz: Path, change: Callable[[Arrays], None], message: str
) -> None:
    arrays = dict(np.load(digits_npz))
    change(arrays)
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(DataError, match=message):
        digit_folders.read(tmp_path / "other.npz")


def test_no_file_and_no_npz(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no such file"):
        digit_folders.read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="expected mnist_x"):
        digit_folders.read(tmp_path / "text.npz")
