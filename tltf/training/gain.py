"""Whether keeping features pays: passes over the frozen part that are saved, against reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tltf.spec import Phase
from tltf.training.boundary import BYTES_A_VALUE, FLOPS_A_BYTE, Boundary

INPUT_FLOPS = 5e7
"""Reading, decoding and resizing one image of ordinary size: about a millisecond."""


@dataclass(frozen=True)
class Decision:
    """Whether to keep features, and the sentence that says why."""

    pays: bool
    reason: str


def decide(cuts: Sequence[tuple[Phase, Boundary | None]], *, views: int) -> Decision:
    """Compares the work of all phases with and without a store, per example.

    Without one, each of E epochs computes the prefix (F operations and the decoding D):
    ``E (F + D)``. With one, each view crosses the lowest boundary once and each epoch reads B
    bytes: ``K (F + D) + sum_phases E B``, a byte counting as ``FLOPS_A_BYTE`` operations.
    """
    used = [(phase, cut) for phase, cut in cuts if cut is not None]
    if not used:
        return Decision(False, "nothing is frozen below what trains")
    epochs = sum(phase.epochs or 0 for phase, _ in used)
    plain = sum((phase.epochs or 0) * (cut.flops + INPUT_FLOPS) for phase, cut in used)
    once = views * max(cut.flops + INPUT_FLOPS for _, cut in used)
    reads = sum(
        (phase.epochs or 0) * cut.values * BYTES_A_VALUE * FLOPS_A_BYTE for phase, cut in used
    )
    times = plain / (once + reads)
    what = f"{epochs} epochs would compute what {views} stored {'views' if views > 1 else 'view'}"
    if times <= 1.0:
        return Decision(
            False, f"{what} of an example take as long to make and read; it does not pay"
        )
    return Decision(True, f"{what} give, with about {times:.1f} times the work")
