"""Which taps one head reads together: the depths of a network that the stacked probe asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tltf.models.tappool import DEVIATION, MEAN, QUADRANTS
from tltf.models.taps import Tap
from tltf.probes.stack import RIDGE, Group

TOP_SHARE, LEAST_TOP = 0.22, 2
BELOW_UPPER = 3
"""The lowest third of the blocks, edges and colours, is left out."""
BUDGET = 40_000
"""Numbers of an example: 160 KB in the store, 320 MB for the 2,000 examples that have folds."""
MEMORY = 250_000_000
"""Numbers of all examples together, 1 GB."""
MOST_COORDINATES = 2500
"""A head of more coordinates, the smaller of examples and numbers, takes minutes to solve."""


def groups(taps: Sequence[Tap]) -> tuple[Group, ...]:
    """The groups that a stacked probe weighs, of the taps that are there.

    ``last`` is what a plain linear probe reads: the means of the last block. ``top`` are the last
    blocks (22 %, at least two), ``upper`` those above the lowest third; ``spread`` adds the
    deviations, ``places`` the quadrants, ``inner`` are the widest layers within blocks. Two of
    them get a ridge beside, or instead of, the logistic head.
    """
    blocks = list(dict.fromkeys(tap.block for tap in taps))
    top = set(blocks[-max(LEAST_TOP, round(TOP_SHARE * len(blocks))) :])
    upper = set(blocks[len(blocks) // BELOW_UPPER :])

    def named(wanted: Callable[[Tap], bool]) -> tuple[str, ...]:
        return tuple(tap.name for tap in taps if wanted(tap))

    def spread(within: set[str], *, inner: bool) -> tuple[str, ...]:
        return named(
            lambda tap: (
                tap.block in within and tap.inner == inner and tap.statistic in (MEAN, DEVIATION)
            )
        )

    def means(within: set[str]) -> tuple[str, ...]:
        return named(lambda tap: tap.block in within and not tap.inner and tap.statistic == MEAN)

    places = named(lambda tap: tap.block in top and not tap.inner and tap.statistic == QUADRANTS)
    found = [
        Group(name="last", taps=means(set(blocks[-1:]))),
        Group(name="top", taps=means(top)),
        Group(name="upper", taps=means(upper)),
        Group(name="upper spread", taps=spread(upper, inner=False)),
        Group(name="top places", taps=places),
        Group(name="inner spread", taps=spread(upper, inner=True)),
        Group(name="top spread, ridge", taps=spread(top, inner=False), head=RIDGE),
        Group(name="inner spread, ridge", taps=spread(upper, inner=True), head=RIDGE),
    ]
    return _distinct(found)


def solvable(found: Sequence[Group], taps: Sequence[Tap], *, examples: int) -> tuple[Group, ...]:
    """The groups whose heads are solved in seconds; the first one, which is the probe of the last
    block, in any case."""
    widths = {tap.name: tap.width for tap in taps}
    return tuple(
        group
        for k, group in enumerate(found)
        if k == 0 or min(examples, sum(widths[name] for name in group.taps)) <= MOST_COORDINATES
    )


def within_budget(taps: Sequence[Tap], *, examples: int) -> tuple[Tap, ...]:
    """The taps that a group reads, without the lowest ones that are too much together.

    What goes first when numbers are too many: inner layers, from below; then quadrants and
    deviations, from below; then whole blocks, from below. The last block's means stay.
    """
    room = max(taps[-1].width, min(BUDGET, MEMORY // max(1, examples)))
    asked = solvable(groups(taps), taps, examples=examples)
    read = {name for group in asked for name in group.taps}
    kept = [tap for tap in taps if tap.name in read]
    order = sorted(range(len(kept) - 1), key=lambda k: (_dispensable(kept[k]), k))
    total = sum(tap.width for tap in kept)
    gone = set()
    for k in order:
        if total <= room:
            break
        gone.add(k)
        total -= kept[k].width
    return tuple(tap for k, tap in enumerate(kept) if k not in gone)


def _dispensable(tap: Tap) -> int:
    return 0 if tap.inner else 2 if tap.statistic == MEAN else 1


def _distinct(found: Sequence[Group]) -> tuple[Group, ...]:
    """Without empty groups, and without a second head of one kind on the same taps."""
    kept: dict[tuple[tuple[str, ...], str], Group] = {}
    for group in found:
        if group.taps:
            kept.setdefault((group.taps, group.head), group)
    return tuple(kept.values())
