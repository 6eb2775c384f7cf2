"""Several sources: how much of each is trained on, by its nearness to the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tltf.data.manifest import Record
from tltf.spec import TransferSpec
from tltf.stages.domainfit import Features
from tltf.transfer.mixing import mixed_sources, source_shares

Say = Callable[[str], None]


def mixed(
    found: Features, records: Sequence[Record], spec: TransferSpec, *, say: Say
) -> tuple[Features, dict[str, float]]:
    """As many training rows as there are, drawn from the sources by their shares.

    Args:
      found: of all sources together.
      records: of its training rows; ``slice`` is the name of the source.
      spec: names the sources.
      say: told the shares.

    Returns:
      The features, and source -> share; unchanged and empty where there is one source only.
    """
    if not spec.adapt.sources:
        return found, {}
    names = (spec.data.source, *spec.adapt.sources)
    origin = np.array([names.index(str(record.slice)) for record in records])
    rows = [np.flatnonzero(origin == k) for k in range(len(names))]
    pooled = found.pooled(found.train)
    shares = source_shares([pooled[r] for r in rows], found.pooled(found.target), seed=spec.seed)
    drawn = mixed_sources([len(r) for r in rows], shares, n=len(origin), seed=spec.seed)
    chosen = np.array([rows[source][row] for source, row in drawn])
    by_name = dict(zip(names, (float(share) for share in shares), strict=True))
    say(told(by_name))
    few = tuple(array[chosen] for array in found.train)
    return dataclasses.replace(found, train=few, labels=found.labels[chosen]), by_name


def told(shares: Mapping[str, float]) -> str:
    """The shares as a sentence."""
    each = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return f"sources: {each} of the training examples, by their nearness to the target"
