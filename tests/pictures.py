"""Pictures to test with: noise with a content of its own, and real handwritten digits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int = 0, *, height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    """uint8 ``[H, W, C]`` of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def digit_pngs(wanted: Sequence[int], per_class: int) -> Mapping[int, list[bytes]]:
    """Real handwritten digits, 8x8, as PNG bytes: the first ``per_class`` of each class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scaled = np.floor(digits.images * 255 / 16 + 0.5).astype(np.uint8)
    return {
        digit: [
            encoded(Image.fromarray(image), "PNG")
            for image in scaled[digits.target == digit][:per_class]
        ]
        for digit in wanted
    }


def write_digit_folder(folder: Path, wanted: Sequence[int], per_class: int) -> Path:
    """``folder/<digit>/<number>.png``, a class folder for each digit."""
    for digit, files in digit_pngs(wanted, per_class).items():
        (folder / str(digit)).mkdir(parents=True)
        for i, data in enumerate(files):
            (folder / str(digit) / f"{i:03d}.png").write_bytes(data)
    return folder
