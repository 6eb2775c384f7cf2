"""Data for the recipes: made here, small, and learnable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 40 small pictures, red and blue ones with noise."""
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 120, (32, 32, 3), np.uint8)
        name = ("blue", "red")[number % 2]
        pixels[..., 0 if name == "red" else 2] += 120
        path = tmp_path / "photos" / name / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def digits_npz(tmp_path: Path) -> Path:
    """The file of --digits_npz with scikit-learn's real digits in both sizes, 15 of each class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.concatenate([np.flatnonzero(digits.target == d)[:15] for d in range(10)])
    small = digits.images[rows] / 16.0
    large = np.kron(small, np.ones((3, 3)))
    mnist = np.pad(large, ((0, 0), (2, 2), (2, 2)))
    np.savez(
        tmp_path / "digits.npz",
        mnist_x=np.round(mnist * 255).astype(np.uint8),
        mnist_y=digits.target[rows],
        usps_x=np.kron(small, np.ones((2, 2))).astype(np.float32),
        usps_y=digits.target[rows],
    )
    return tmp_path / "digits.npz"
