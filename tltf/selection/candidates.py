"""What ``--backbones`` names: networks, weights, and where in the network the features are taken.

A candidate is written as a backbone's name, with ``@`` and a block for the features at the
output of that block, or ``@random`` for the same network without its weights, a control that
every ranking should put last::

    MobileNetV2,MobileNetV2@block_12,MobileNet:alpha=0.25,MobileNetV2@random

``fast`` stands for small networks, ``all-cached`` for those whose weights are on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tltf.backbones import catalog, official
from tltf.errors import ArgumentError

RANDOM, ALL_CACHED = "random", "all-cached"
FAST = (
    "MobileNet:alpha=0.25",
    "MobileNetV2:alpha=0.35",
    "MobileNetV3Small",
    "MobileNetV2",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "NASNetMobile",
)
"""Below 6 million parameters, in the order of their size."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of a ranking.

    Args:
      name: as it was written.
      backbone: what :func:`tltf.backbone` takes.
      weights: ``imagenet`` or ``none``; ignored by backbones that bring their own.
      block: features at the output of this block; None for those of the whole network.
    """

    name: str
    backbone: str
    weights: str = "imagenet"
    block: str | None = None


def candidates(text: str) -> tuple[Candidate, ...]:
    """The candidates of a comma-separated list; ``fast`` stands for :data:`FAST`, ``all-cached``
    for the networks whose official weights are in Keras' cache.

    Raises:
      ArgumentError: an unknown name (the nearest is named), an empty list, a name twice, one that
        reads texts.

    >>> [c.block for c in candidates("MobileNetV2,MobileNetV2@block_12")]
    [None, 'block_12']
    """
    names: list[str] = []
    for part in (piece.strip() for piece in text.split(",") if piece.strip()):
        # A further option follows a comma too: MobileNetV3Small:alpha=0.75,minimalistic=true
        if "=" in part and ":" not in part and names and ":" in names[-1]:
            names[-1] += f",{part}"
        elif part == "fast":
            names += FAST
        elif part == ALL_CACHED:
            names += official.cached()
        else:
            names.append(part)
    if not names and text.strip() == ALL_CACHED:
        raise ArgumentError(
            f"no official weights are in {official.cache_folder()}",
            where=f"--backbones={ALL_CACHED}",
            next_action="name networks, for example --backbones=fast; their weights are fetched",
        )
    if not names:
        raise ArgumentError(
            "no candidates were named",
            where="--backbones",
            next_action="for example --backbones=fast, or MobileNetV2,EfficientNetB0",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ArgumentError(f"{twice[0]} is named twice", where="--backbones")
    return tuple(_candidate(name) for name in names)


def by_backbone(chosen: Sequence[Candidate]) -> dict[tuple[str, str], list[Candidate]]:
    """``(backbone, weights)`` to its candidates: all of them cost one pass."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in chosen:
        groups.setdefault((candidate.backbone, candidate.weights), []).append(candidate)
    return groups


def _candidate(name: str) -> Candidate:
    backbone, at, place = name.rpartition("@")
    if not at:
        backbone, place = name, ""
    choice = catalog.lookup(backbone)
    if choice.kind in catalog.TEXT_KINDS:
        raise ArgumentError(
            f"{backbone} reads texts, and tltf rank measures backbones of images",
            where="--backbones",
            next_action="train with each backbone of texts, then tltf compare RUN1 RUN2",
        )
    scratch = choice.entry is not None and not choice.entry.pretrained
    weights = "none" if place == RANDOM or scratch else "imagenet"
    if weights == "imagenet":
        catalog.check_published(choice)
    block = None if place in ("", RANDOM) else place
    return Candidate(name=name, backbone=backbone, weights=weights, block=block)
