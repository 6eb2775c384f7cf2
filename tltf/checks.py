"""Checks of single values, for specifications: what was passed, what is expected, what to do."""

from __future__ import annotations

import json
import math
import re

from tltf.errors import ArgumentError, nearest


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises ArgumentError unless ``value`` is one of ``known``; the nearest is named."""
    if value not in known:
        raise ArgumentError(
            f"{name}={value!r}, expected one of {', '.join(known)}{nearest(str(value), known)}",
            where=f"--{name}",
        )


def in_range(
    name: str,
    value: object,
    low: float,
    high: float,
    where: str = "",
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raises ArgumentError unless ``value`` is a number between ``low`` and ``high``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        above = value > low if low_open else value >= low
        below = value < high if high_open or high == math.inf else value <= high
        if above and below:
            return
    left, right = "(" if low_open else "[", ")" if high_open or high == math.inf else "]"
    raise ArgumentError(
        f"{name}={value!r}, expected a number in {left}{low:g}, {high:g}{right}",
        where=where or f"--{name}",
    )


def parsed_micro_batch(text: str | int) -> str | int:
    """What ``--micro_batch`` says: ``auto``, or a number of examples; 0 is a whole batch.

    Raises:
      ArgumentError: anything else.

    >>> parsed_micro_batch("auto"), parsed_micro_batch("8")
    ('auto', 8)
    """
    if text == "auto":
        return "auto"
    if str(text).isdecimal():
        return int(text)
    raise ArgumentError(
        f"micro_batch={text!r}, expected auto or a number of examples",
        where="--micro_batch",
        next_action="for example --micro_batch=8; 0 takes a batch as a whole",
    )


def check_unfreeze(unfreeze: str) -> None:
    """Raises ArgumentError unless the text has one of the forms of :class:`Phase`."""
    kind, _, rest = unfreeze.partition(":")
    good = (
        unfreeze in ("none", "all")
        or (kind == "last" and rest.isdecimal() and int(rest) >= 1)
        or (kind == "blocks" and all(name.strip() for name in rest.split(",")))
        or (kind == "regex" and rest != "" and _compiles(rest))
    )
    if not good:
        raise ArgumentError(
            f"unfreeze={unfreeze!r}, expected none, all, last:N, blocks:a,b or regex:PATTERN",
            where="--unfreeze",
            next_action="for example --unfreeze=last:2",
        )


def check_class_weight(class_weight: str) -> None:
    """Raises ArgumentError unless ``none``, ``auto`` or a JSON object of positive numbers."""
    if class_weight in ("none", "auto"):
        return
    try:
        weights = json.loads(class_weight)
    except (ValueError, RecursionError):
        weights = None
    good = isinstance(weights, dict) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf
        for w in weights.values()
    )
    if not good:
        raise ArgumentError(
            f"class_weight={class_weight!r}, expected none, auto or JSON",
            where="--class_weight",
            next_action="""for example --class_weight='{"cat": 1, "dog": 2.5}'""",
        )


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def check_validation(text: str) -> None:
    """Raises ArgumentError unless this is ``auto``, ``split``, ``folds`` or ``folds:K``, K >= 2."""
    if text in ("auto", "split") or fold_count(text) is not None:
        return
    raise ArgumentError(
        f"validation={text!r}, expected auto, split, folds or folds:K with K from 2 to 100"
        f"{nearest(text, ('auto', 'split', 'folds'))}",
        where="--validation",
    )


def fold_count(text: str) -> int | None:
    """K of ``folds:K``, 0 for ``folds``; None for anything else.

    >>> fold_count("folds:10"), fold_count("folds"), fold_count("split")
    (10, 0, None)
    """
    kind, colon, number = text.partition(":")
    if kind != "folds":
        return None
    if not colon:
        return 0
    return int(number) if number.isdecimal() and 2 <= int(number) <= 100 else None
