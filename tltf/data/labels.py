"""From labels as they were written to the task, the classes and the labels of the Records."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal, InvalidOperation

from tltf.data.manifest import BadInputsError, Excluded, Label
from tltf.errors import ArgumentError, DataError, named_list, nearest

SEPARATOR = "|"
_MOST_NUMERIC_CLASSES = 20
_TASKS = ("auto", "single_label", "multi_label", "regression")

RawLabel = str | float | tuple[str, ...]


def understand(
    raw: Sequence[RawLabel],
    ids: Sequence[str],
    *,
    task: str,
    where: str,
    separator: str = SEPARATOR,
) -> tuple[str, tuple[str, ...], list[Label]]:
    """Finds the task if it is ``auto``, and reads every label accordingly.

    Args:
      raw: labels as written: text, a number, or several names.
      ids: how each is named in an error.
      task: ``auto``, ``single_label``, ``multi_label`` or ``regression``.
      where: the source, for errors.
      separator: what stands between several labels of one example.

    Returns:
      The task, the sorted classes (none for regression), and one label each.

    Raises:
      ArgumentError: an unknown task, or a separator that separates nothing.
      BadInputsError: labels that are empty or do not fit the task, all of them.
      DataError: fewer than two classes, or two names that differ in case or spaces only, or are
        the same number.
    """
    if task not in _TASKS:
        raise ArgumentError(
            f"task={task!r}, expected one of {', '.join(_TASKS)}{nearest(task, _TASKS)}",
            where="--task",
        )
    if not separator.strip() and separator != "\t":
        raise ArgumentError(
            f"label_separator={separator!r}, expected what stands between several labels",
            where="--label_separator",
            next_action="for example --label_separator=, or leave it out",
        )
    task = _guess(raw, separator) if task == "auto" else task
    readers: dict[str, Callable[[RawLabel], Label]] = {
        "single_label": _single,
        "multi_label": functools.partial(_multi, separator=separator),
        "regression": _real,
    }
    labels: list[Label] = []
    bad = []
    for value, name in zip(raw, ids, strict=True):
        try:
            labels.append(readers[task](value))
        except ValueError as error:
            bad.append(Excluded(id=name, outcome="bad", reason=str(error)))
    if bad:
        raise BadInputsError(
            f"{len(bad)} of {len(raw)} labels do not fit task={task!r}: "
            + named_list(f"{x.id} ({x.reason})" for x in bad),
            excluded=bad,
            where=where,
            next_action="correct them, or name another --task",
        )
    if task == "regression":
        return task, (), labels
    classes = check_classes(
        counted(labels),
        fewest=2 if task == "single_label" else 1,
        where=where,
    )
    return task, classes, labels


def counted(labels: Iterable[Label]) -> Counter[str]:
    """How many examples have each label; a number under its text."""
    return Counter(
        name for label in labels for name in (label if isinstance(label, tuple) else (str(label),))
    )


def check_classes(names: Iterable[str], *, fewest: int, where: str) -> tuple[str, ...]:
    """The names, sorted, if they can be classes.

    Args:
      names: may be counts, which errors show then.
      fewest: how many there must be.
      where: the source, for errors.

    Raises:
      DataError: too few, or two that differ in case or spaces only, or are the same number.
    """
    classes = tuple(sorted(set(names)))
    if len(classes) < fewest:
        raise DataError(
            f"{len(classes)} classes ({named_list(classes)}), expected at least {fewest}",
            where=where,
            next_action="add examples of another class",
        )
    counts = names if isinstance(names, Counter) else Counter()
    for key, alike, remedy in (
        (_spelling, "differ in case or spaces only", "give each class one spelling"),
        (_exact, "are the same number", "give each class one spelling, or use --task=regression"),
    ):
        twins = _twins(classes, key, counts)
        if twins:
            raise DataError(
                f"classes that {alike}: {named_list(twins)}",
                where=where,
                next_action=remedy,
            )
    return classes


def _twins(
    classes: Iterable[str], key: Callable[[str], Hashable], counts: Counter[str]
) -> list[str]:
    groups = defaultdict(list)
    for name in classes:
        groups[key(name)].append(f"{name!r} ({counts[name]})" if counts else repr(name))
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _spelling(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _exact(name: str) -> Decimal | str:
    """The number that a name is, however long; a name that is none as it is."""
    try:
        number = Decimal(name)
    except InvalidOperation:
        return name
    # 1_01 is a name, though Python reads it.
    return number if number.is_finite() and "_" not in name else name


def _guess(raw: Sequence[RawLabel], separator: str) -> str:
    if any(isinstance(v, tuple) or (isinstance(v, str) and separator in v) for v in raw):
        return "multi_label"
    numbers = [number for number in map(_number, raw) if number is not None]
    if len(numbers) == len(raw) > 0:
        # Among numbers, nan is a missing one and no class: the regression names its line.
        whole = all(number.is_integer() for number in numbers)
        if not whole or len(set(numbers)) > _MOST_NUMERIC_CLASSES:
            return "regression"
    return "single_label"


def _single(value: RawLabel) -> str:
    if isinstance(value, tuple):
        raise ValueError(f"several labels: {named_list(value)}")
    text = str(value)
    if not text.strip():
        raise ValueError("empty label")
    if "\n" in text or "\r" in text:
        raise ValueError("a line break in the label: an unclosed quote?")
    return text


def _multi(value: RawLabel, *, separator: str) -> tuple[str, ...]:
    parts = value if isinstance(value, tuple) else str(value).split(separator)
    return tuple(sorted({_single(part.strip()) for part in parts if part.strip()}))


def _real(value: RawLabel) -> float:
    number = _number(value)
    if number is None or math.isnan(number):
        raise ValueError(f"label {value!r} is not a number" if value != "" else "empty label")
    if math.isinf(number):
        raise ValueError(f"label {str(value)[:20]!r} is not finite")
    return number


def _number(value: RawLabel) -> float | None:
    """The value as a number, which may be nan or infinite, or None."""
    if isinstance(value, tuple):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # a whole number of JSON
        return math.inf
