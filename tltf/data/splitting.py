"""The rows of an index into its splits: piece by piece, without a leak between named splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tltf.data.columns import AT_ONCE, COLUMNS, PATHS
from tltf.data.manifest import SPLITS
from tltf.errors import DataError, named_list

_TRAIN, _VAL, _TEST = range(len(SPLITS))


@dataclass(frozen=True, kw_only=True)
class Divided:
    """What became of the rows: how many there are in each split, of each class, and why."""

    sizes: dict[str, int]
    counts: dict[str, dict[str, int]]
    carved: str
    notes: tuple[str, ...]


def divided(
    rows_folder: Path,
    kinds: Mapping[str, np.dtype[Any]],
    out: Path,
    *,
    rows: int,
    codes: np.ndarray,
    classes: Sequence[str],
    fractions: Mapping[str, float],
    where: str,
) -> Divided:
    """Writes ``out/<split>/<column>`` for every split.

    Args:
      rows_folder: the columns of all rows, ``kinds`` and paths.
      rows: how many.
      codes: int32, from the number that a row's label has to its place in ``classes``.
      fractions: of ``val`` and ``test``; used where no row names that split.
      where: the table, for errors.

    Raises:
      DataError: an empty split, or a class without an example to train on.
    """
    raw = {name: np.memmap(rows_folder / name, kind, "r", shape=(rows,))
           for name, kind in kinds.items()}  # fmt: skip
    named = {s for s in (_VAL, _TEST) if np.any(raw["named"] == s + 1)}
    wanted = {s: 0.0 if s in named else fractions[SPLITS[s]] for s in (_VAL, _TEST)}

    def splits(piece: slice) -> np.ndarray:
        share = raw["draw"][piece].astype(np.float64) / 2.0**64
        drawn = np.where(share < wanted[_TEST], _TEST,
                         np.where(share < wanted[_TEST] + wanted[_VAL], _VAL, _TRAIN))  # fmt: skip
        given = raw["named"][piece].astype(int) - 1
        return np.where(given > _TRAIN, given, drawn)

    held = {s: _contents(raw, splits, rows, s) for s in (_VAL, _TEST)}
    counts = np.zeros((len(SPLITS), len(classes)), np.int64)
    left_out = 0
    with ExitStack() as stack:
        files = _opened(out, stack)
        place = [0] * len(SPLITS)
        paths = stack.enter_context((rows_folder / PATHS).open("rb"))
        for piece in _slices(rows):
            split, label = splits(piece), codes[raw["label"][piece]]
            leaks = _leaks(_heads(raw["sha256"][piece]), split, held)
            left_out += int(leaks.sum())
            ends = raw["end"][piece].astype(np.int64)
            starts = np.concatenate([[paths.tell()], ends[:-1]])
            data, begin = paths.read(int(ends[-1]) - paths.tell()), int(starts[0])
            for s in range(len(SPLITS)):
                mine = np.flatnonzero((split == s) & ~leaks)
                place[s] = _write(files[s], raw, piece, mine, label, place[s],
                                  [data[a:b] for a, b in zip((starts[mine] - begin).tolist(),
                                                             (ends[mine] - begin).tolist(),
                                                             strict=True)])  # fmt: skip
                counts[s] += np.bincount(label[mine], minlength=len(classes))
    notes = _checked(counts, classes, {s for s in wanted if wanted[s] > 0}, where)
    if left_out:
        notes = (*notes, f"{left_out} rows left out, since a stricter split holds the same content")
    sizes = {name: int(counts[s].sum()) for s, name in enumerate(SPLITS)}
    shares = ", ".join(f"{n} {name}" for name, n in sizes.items())
    return Divided(
        sizes=sizes,
        counts={name: {c: int(n) for c, n in zip(classes, counts[s], strict=True) if n}
                for s, name in enumerate(SPLITS)},
        carved=shares,
        notes=notes,
    )  # fmt: skip


def _opened(out: Path, stack: ExitStack) -> list[dict[str, IO[bytes]]]:
    found: list[dict[str, IO[bytes]]] = []
    for name in SPLITS:
        (out / name).mkdir(exist_ok=True)
        found.append({column: stack.enter_context((out / name / column).open("wb"))
                      for column in (*COLUMNS, PATHS)})  # fmt: skip
    return found


def _write(
    files: Mapping[str, IO[bytes]],
    raw: Mapping[str, np.ndarray],
    piece: slice,
    mine: np.ndarray,
    label: np.ndarray,
    place: int,
    paths: list[bytes],
) -> int:
    """Appends some rows of a piece to a split; returns where its paths end now."""
    lengths = np.array([len(path) for path in paths], np.uint64)
    ends = place + np.cumsum(lengths, dtype=np.uint64)
    columns = {name: raw[name][piece][mine] for name in ("sha256", "weight", "line")}
    columns |= {"label": label[mine], "end": ends}
    for name, values in columns.items():
        files[name].write(np.ascontiguousarray(values, COLUMNS[name]).tobytes())
    files[PATHS].write(b"".join(paths))
    return place + int(lengths.sum())


def _slices(rows: int) -> Iterator[slice]:
    for start in range(0, rows, AT_ONCE):
        yield slice(start, min(rows, start + AT_ONCE))


def _heads(sha256: np.ndarray) -> np.ndarray:
    """The first 64 bits of each hash, as numbers."""
    whole = np.ascontiguousarray(sha256).view(np.uint8).reshape(-1, 32)
    return np.ascontiguousarray(whole[:, :8]).view("<u8")[:, 0]


def _contents(
    raw: Mapping[str, np.ndarray], splits: Any, rows: int, split: int
) -> np.ndarray:  # fmt: skip
    """Sorted contents of a held-out split: 8 bytes for each."""
    parts = [_heads(raw["sha256"][piece][splits(piece) == split]) for piece in _slices(rows)]
    return np.unique(np.concatenate(parts))


def _leaks(heads: np.ndarray, split: np.ndarray, held: Mapping[int, np.ndarray]) -> np.ndarray:
    """Which rows stand in a less strict split than another with the same content."""
    in_val, in_test = (_among(heads, held[s]) for s in (_VAL, _TEST))
    return ((split == _TRAIN) & (in_val | in_test)) | ((split == _VAL) & in_test)


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return known[places] == values


def _checked(
    counts: np.ndarray, classes: Sequence[str], carved: set[int], where: str
) -> tuple[str, ...]:
    sizes = ", ".join(f"{name} {int(counts[s].sum())}" for s, name in enumerate(SPLITS))
    for s in (_TRAIN, *sorted(carved)):
        if not counts[s].sum():
            raise DataError(
                f"no examples in {SPLITS[s]}: {sizes}",
                where=where,
                next_action="add data, or change --val_fraction and --test_fraction",
            )
    missing = [c for c, n in zip(classes, counts[_TRAIN], strict=True) if not n]
    if missing:
        raise DataError(
            f"{len(missing)} classes have no example to train on: {named_list(missing)}",
            where=where,
            next_action="add examples of them, or leave those classes out",
        )
    held = counts[[s for s in (_VAL, _TEST) if counts[s].sum()]]
    lacking = [c for c, n in zip(classes, held.T, strict=True) if not n.all()]
    return (f"classes without an example in val or test: {named_list(lacking)}",) if lacking else ()
