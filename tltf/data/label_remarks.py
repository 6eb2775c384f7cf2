"""Labels that look like something else than names: said with their counts and what decides.

Nothing is changed here. A cell ``urgent, billing`` may be two labels or the name of one; only the
person who wrote it knows, so the reading that was taken is said, and the flag that takes the other.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping

from tltf.errors import named_list, printable

SEPARATORS = (",", ";", "/", "|")
"""What people put between several labels of one example."""

_SAME = (frozenset(("true", "yes", "y", "1", "on")), frozenset(("false", "no", "n", "0", "off")))
_MISSING = frozenset(("nan", "na", "n/a", "none", "null", "nil", "?", "-", "unknown", "#n/a"))
_LIST = re.compile(r"\s*(\[.*\]|\{.*\}|\(.*,.*\))\s*", re.DOTALL)
_DATE = re.compile(
    r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ]\d{1,2}:\d{2}.*)?\s*"
)
_SHOWN = 3
_ONE = "each is one class of that name"


def remarks(
    counts: Mapping[str, int], *, task: str, asked: str = "auto", separator: str | None = "|"
) -> tuple[str, ...]:
    """Sentences about the labels of one source.

    Args:
      counts: label, as it was read -> examples that have it; of a regression the number as text.
      task: as which they were read.
      asked: the task that the person named, ``auto`` for none.
      separator: what was taken to stand between several labels; None where there is one only.

    >>> remarks({"a, b": 2, "c": 1}, task="single_label")[0]
    "2 of 3 labels hold ',', such as 'a, b' (2): each is one class of that name; \
--label_separator=, makes several labels of it"
    """
    if not counts:
        return ()
    found = _numbers(counts, task, asked)
    if task != "regression":
        found = (*found, *_names(counts, separator))
    return tuple(printable(sentence) for sentence in found)


def _numbers(counts: Mapping[str, int], task: str, asked: str) -> tuple[str, ...]:
    """What numbers were taken for, where the person did not say."""
    numbers = {name: number for name in counts if (number := _number(name)) is not None}
    if not numbers or asked != "auto":
        return ()
    between = f"{min(numbers.values()):g} to {max(numbers.values()):g}"
    if task == "regression":
        return (f"the labels are {len(numbers)} different numbers from {between}, taken as a"
                " regression; --task=single_label makes each a class",)  # fmt: skip
    if len(numbers) == len(counts):
        return (f"the labels are {len(numbers)} whole numbers from {between}, taken as classes;"
                " --task=regression predicts them as numbers",)  # fmt: skip
    return (f"{_so_many(counts, numbers)} are numbers{_such_as(counts, numbers)}, among names:"
            " each is one class",)  # fmt: skip


def _names(counts: Mapping[str, int], separator: str | None) -> Iterator[str]:
    lists = [name for name in counts if _LIST.fullmatch(name)]
    dates = [name for name in counts if _DATE.fullmatch(name)]
    missing = [name for name in counts if name.strip().casefold() in _MISSING]
    odd = {*lists, *dates, *missing}
    if lists:
        write = f"; for several labels write one{separator}other" if separator else ""
        yield f"{_so_many(counts, lists)} look like lists{_such_as(counts, lists)}: {_ONE}{write}"
    for mark in SEPARATORS:
        holding = [name for name in counts if mark != separator and _parts(name, mark, odd)]
        if holding:
            flag = f"--label_separator={mark if mark == ',' else shlex.quote(mark)}"
            makes = f"; {flag} makes several labels of it" if separator else ""
            yield (f"{_so_many(counts, holding)} hold {mark!r}{_such_as(counts, holding)}: {_ONE}"
                   f"{makes}")  # fmt: skip
    if dates:
        yield (f"{_so_many(counts, dates)} look like dates{_such_as(counts, dates)}: {_ONE}; a"
               " number in their place and --task=regression would be predicted")  # fmt: skip
    if missing:
        yield (f"{_so_many(counts, missing)} look like missing ones{_such_as(counts, missing)}:"
               " each is one class; leave those rows out if they are none")  # fmt: skip
    blanks = [name for name in counts if name != name.strip()]
    if blanks:
        yield (f"{_so_many(counts, blanks)} begin or end with a blank{_such_as(counts, blanks)}:"
               " it is part of the class's name")  # fmt: skip
    for same in _SAME:
        alike = [name for name in counts if name.strip().casefold() in same]
        if len(alike) > 1:
            yield (f"labels that mean the same to a reader: {_listed(counts, alike)}; each is one"
                   " class")  # fmt: skip


def _parts(name: str, mark: str, odd: Collection[str]) -> bool:
    """Whether the name is several that are not empty, with this mark between them."""
    return name not in odd and len([part for part in name.split(mark) if part.strip()]) > 1


def _number(name: str) -> float | None:
    try:
        return float(name) if "_" not in name and name.strip().lower() != "nan" else None
    except ValueError:
        return None


def _so_many(counts: Mapping[str, int], names: Collection[str]) -> str:
    return f"{sum(counts[name] for name in names)} of {sum(counts.values())} labels"


def _such_as(counts: Mapping[str, int], names: Collection[str]) -> str:
    return f", such as {_listed(counts, names)}"


def _listed(counts: Mapping[str, int], names: Collection[str]) -> str:
    """The most frequent ones, each with how often it is there."""
    first = sorted(names, key=lambda name: (-counts[name], name))
    return named_list((f"{name[:40]!r} ({counts[name]})" for name in first), most=_SHOWN)
