"""How deep: what a linear probe finds at the output of every block, and what that suggests.

Where features stop getting better, the blocks above have learned something that is particular
to the source task: these are the ones to unfreeze.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tltf.errors import ArgumentError, nearest
from tltf.evaluation import verdict
from tltf.selection import probing

STRENGTH = (0.01,)
"""One strength for all blocks: the curve compares depths, and choosing at each costs the most."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Probe accuracy against block, and the unfreeze depth that it suggests.

    Args:
      blocks: names, bottom to top.
      accuracies: of a linear probe at each block's output.
      unfreeze: ``last:N``, the blocks above the lowest one that ties with the best; ``none``
        when that is the last block.
      hint: a sentence; a suggestion about early blocks is marked as one.
    """

    blocks: tuple[str, ...]
    accuracies: tuple[float, ...]
    unfreeze: str
    hint: str

    def as_dict(self) -> dict[str, Any]:
        """For ``rank.json``."""
        return {
            "blocks": list(self.blocks),
            "accuracies": list(self.accuracies),
            "unfreeze": self.unfreeze,
            "hint": self.hint,
        }


def curve(
    features: Mapping[str, NDArray[np.floating]], labels: NDArray[np.int64], *, seed: int = 0
) -> Curve:
    """Probes every block.

    Args:
      features: block -> ``[n, D]``, bottom to top.
      labels: class indices ``[n]``.
      seed: of the folds.
    """
    hits = {
        name: probing.linear_probe_hits(x, labels, strengths=STRENGTH, seed=seed)
        for name, x in features.items()
    }
    names = list(hits)
    accuracies = tuple(float(h.mean()) for h in hits.values())
    best = int(np.argmax(accuracies))
    tied = next(
        i
        for i, name in enumerate(names)
        if verdict.compare(hits[names[best]], hits[name]).kind == verdict.NO_DIFFERENCE
    )
    above = len(names) - 1 - tied
    return Curve(
        blocks=tuple(names),
        accuracies=accuracies,
        unfreeze=f"last:{above}" if above else "none",
        hint=_hint(names, accuracies, tied),
    )


def block(features: Mapping[str, NDArray[np.floating]], name: str | None) -> NDArray[np.floating]:
    """The features of a block; of the last one for None.

    Raises:
      ArgumentError: there is no such block.
    """
    if name is None:
        return features[list(features)[-1]]
    if name not in features:
        raise ArgumentError(
            f"there is no block {name!r}{nearest(name, features)};"
            f" blocks, bottom to top: {', '.join(features)}",
            where="--backbones",
        )
    return features[name]


def _hint(names: list[str], accuracies: tuple[float, ...], tied: int) -> str:
    if tied == len(names) - 1:
        return (
            "accuracy rises to the last block: a head on frozen features is a good start, and more"
            " of the network may still gain from training"
        )
    gain = 100 * (accuracies[tied] - accuracies[-1])
    than = f"{gain:.1f} points better than" if gain >= 0.05 else "no worse than"
    text = (
        f"features at {names[tied]} cannot be told from the best and are {than} the last block's;"
        " what lies above it is the first to unfreeze"
    )
    if tied < len(names) // 3:
        text += (
            "; suggestion only: such an early best often means a shift in colour or texture, where"
            " tuning the first blocks alone can be enough (surgical fine-tuning)"
        )
    return text
