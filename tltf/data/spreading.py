"""Some of many records, from everywhere in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(items: Sequence[T], *, most: int) -> list[T]:
    """At most ``most`` of the items, in their order, one from each of as many equal stretches.

    Records come in the order of their classes, of their folders or of their rows: the first
    thousand are of the first classes, and every second one of classes that take turns is of half
    of them. So each stretch gives an item at a place that is drawn. The choice follows from the
    two lengths alone.

    Args:
      items: in any order.
      most: >= 0.

    Example:
      >>> places = spread(range(1999), most=1000)
      >>> len(places), places == sorted(places), places[-1] >= 1997
      (1000, True, True)
    """
    n = len(items)
    if n <= most:
        return list(items)
    edges = np.arange(most + 1) * n // max(1, most)
    places = np.random.default_rng([n, most]).integers(edges[:-1], edges[1:])
    return [items[int(i)] for i in places]
