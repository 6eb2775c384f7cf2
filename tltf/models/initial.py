"""Random initial weights that follow from a seed, without seeding anything globally."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def seeded_initializers(seed: int) -> Iterator[None]:
    """Layers made inside the block get the same initial weights for the same ``seed``.

    seam: an initializer without a seed of its own draws one from Python's ``random`` module,
    whose state is put back when the block ends.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
