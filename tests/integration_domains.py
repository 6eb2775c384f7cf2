"""Two small domains of drawn shapes, as folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bar", "dot", "ring")


def draw(folder: Path, *, n: int, seed: int, dark: bool, flat: bool = False) -> Path:
    """Grey shapes on noise; the target domain is inverted and dimmer."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = CLASSES[i % 3]
        y, x = np.mgrid[:16, :16] - 8 + rng.integers(-1, 2)
        r = np.hypot(y, x)
        shape = {"bar": abs(x) < 2, "dot": r < 4, "ring": (r > 4) & (r < 7)}[label]
        pixels = 40 + 170 * shape + rng.normal(0, 12, (16, 16))
        pixels = 200 - 0.7 * pixels if dark else pixels
        place = folder if flat else folder / label
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).convert("RGB")
        image.save(place / f"{label}{i:03d}.png")
    return folder
