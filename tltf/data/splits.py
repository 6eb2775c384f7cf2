"""train, val and test without leaks: copies and groups stay together, classes in proportion.

The outcome depends on the seed, the contents and the labels only, not on the names of the files
or their order: renaming photos does not make a test example a training example.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from tltf.data.manifest import SPLITS, BadInputsError, Excluded, Manifest, Record, class_names
from tltf.errors import DataError, named_list, printable

_BINS = 10
_STRICTEST_FIRST = ("test", "val", "train")


def split(
    manifest: Manifest,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fail_on_leak: bool = False,
) -> Manifest:
    """Gives every record a split.

    Splits that the data names are kept; what is missing of val and test is carved from train.
    Copies of one content (same sha256) and records of one group never stand in two splits, and
    look-alikes (``alike``) not in two of which one was carved.

    Args:
      manifest: scanned, so that every record has its ``sha256``.
      val_fraction: share to carve as val if the data names no val: of all records but those
        that the data holds out itself; 0 for none.
      test_fraction: the same for test.
      seed: another seed, another split.
      fail_on_leak: raise instead of repairing when named splits share a content or a group.

    Returns:
      The manifest with all splits set. Where named splits shared something, the copies in the
      split that is less held-out (train before val before test) are in ``excluded`` as
      ``ignored``. Notes say what was carved and what was found.

    Raises:
      DataError: an empty split, or a class that is missing from train or from a carved split
        (with a table of counts), or a leak under ``fail_on_leak``.

    Example::

      split(manifest, val_fraction=0.15, test_fraction=0.15, seed=0).split("test")
    """
    notes = list(_copies(manifest.records))
    records, leaked = _without_leaks(manifest.records)
    if leaked and fail_on_leak:
        raise BadInputsError(
            f"{len(leaked)} records leak between splits: "
            + named_list(f"{x.id} ({x.reason})" for x in leaked),
            excluded=leaked,
            where="--fail_on_leak",
            next_action="remove them from one of the splits",
        )
    if leaked:
        notes.append(
            f"{len(leaked)} records left out, since a stricter split holds the same: "
            + printable(named_list(f"{x.id} ({x.reason})" for x in leaked))
        )
    fractions = {"val": val_fraction, "test": test_fraction}
    named = {record.split for record in records} & set(SPLITS)
    carved = {name: f for name, f in fractions.items() if name not in named and f > 0.0}
    records = [r if r.split else dataclasses.replace(r, split="train") for r in records]
    if carved:
        records = _carve(records, carved, task=manifest.task, seed=seed)
        notes.append(_carved_note(records, carved, manifest.task, seed))
    done = dataclasses.replace(
        manifest,
        records=tuple(records),
        excluded=manifest.excluded + tuple(leaked),
        notes=manifest.notes + tuple(notes),
    )
    return dataclasses.replace(done, notes=done.notes + _check(done, set(carved)))


def _copies(records: Sequence[Record]) -> Iterable[str]:
    """Says how many contents are there twice, and which of them with different labels."""
    first: dict[str, Record] = {}
    copies = 0
    pairs = []
    for record in records:
        twin = first.setdefault(record.sha256 or f"id {record.id}", record)
        copies += twin is not record
        if twin.label != record.label:
            pairs.append(f"{twin.id} is {twin.label!r}, its copy {record.id} is {record.label!r}")
    if copies:
        yield f"{copies} exact copies of other records; copies stand in one split"
    if pairs:
        yield f"{len(pairs)} copies with different labels: {printable(named_list(pairs))}"


def _without_leaks(records: Sequence[Record]) -> tuple[list[Record], list[Excluded]]:
    """Between named splits: keeps what is in the strictest one, names the rest."""
    owner: dict[tuple[str, str], Record] = {}
    for name in _STRICTEST_FIRST:
        for record in records:
            if (record.split or "train") == name:
                for key in _ties(record):
                    owner.setdefault(key, record)
    kept, leaked = [], []
    for record in records:
        reasons = [
            f"{'duplicate' if kind == 'sha256' else f'same group {record.group!r} as'}"
            f"{' of' if kind == 'sha256' else ''} {owner[kind, value].id}"
            f" in {owner[kind, value].split}"
            for kind, value in _ties(record)
            if (owner[kind, value].split or "train") != (record.split or "train")
        ]
        if reasons:
            leaked.append(Excluded(id=record.id, outcome="ignored", reason=reasons[0]))
        else:
            kept.append(record)
    return kept, leaked


def _ties(record: Record) -> list[tuple[str, str]]:
    """What binds a record to others: its content and its group."""
    ties = [("sha256", record.sha256 or f"id {record.id}")]
    return ties if record.group is None else [*ties, ("group", record.group)]


def _carve(
    records: list[Record], carved: Mapping[str, float], *, task: str, seed: int
) -> list[Record]:
    """Moves whole components from train to the carved splits.

    Greedy iterative stratification (Sechidis et al., 2011): the rarest stratum first, its
    largest component first, to the split that still lacks most of that stratum. With one label
    per record and no ties between records this gives exact proportions.
    """
    pool = [i for i, record in enumerate(records) if record.split == "train"]
    strata = _strata([records[i] for i in pool], task)
    bound = components([records[i] for i in pool])
    contents = [Counter(s for i in parts for s in strata[i]) for parts in bound]
    keys = [_key([records[pool[i]] for i in parts], seed) for parts in bound]
    left = Counter(s for parts in strata for s in parts)
    need = _Need(left, carved)
    holders = defaultdict(list)
    for c, content in enumerate(contents):
        for stratum in content:
            holders[stratum].append(c)
    waiting = set(range(len(bound)))
    while waiting:
        stratum = min((s for s in left if left[s] > 0), key=lambda s: (left[s], repr(s)))
        members = [c for c in holders[stratum] if c in waiting]
        members.sort(key=lambda c: (-contents[c][stratum], keys[c]))
        for place, c in enumerate(members):
            target = need.neediest(stratum, components_left=len(members) - place)
            need.give(target, contents[c])
            left.subtract(contents[c])
            for i in bound[c]:
                records[pool[i]] = dataclasses.replace(records[pool[i]], split=target)
        waiting.difference_update(members)
    return records


class _Need:
    """What each split still lacks of each stratum."""

    def __init__(self, sizes: Mapping[Hashable, int], rates: Mapping[str, float]) -> None:
        self.wanted: dict[str, Counter[Hashable]] = {}
        above = dict.fromkeys(sizes, 0.0)
        for name, rate in rates.items():
            self.wanted[name] = _apportioned(sizes, rate, least=len(rates), above=above)
            # Whom one split rounded up, the next one rounds down, or train would pay twice.
            above = {s: above[s] + self.wanted[name][s] - n * rate for s, n in sizes.items()}
        rest = {s: n - sum(w[s] for w in self.wanted.values()) for s, n in sizes.items()}
        self.wanted["train"] = Counter(rest)
        self.total = {name: sum(wanted.values()) for name, wanted in self.wanted.items()}
        self.untouched = {(name, s) for name, wanted in self.wanted.items() for s in wanted}

    def neediest(self, stratum: Hashable, *, components_left: int) -> str:
        """The split that lacks most; when few components are left, one that has none yet."""
        owed = [
            name
            for name, wanted in self.wanted.items()
            if wanted[stratum] > 0 and (name, stratum) in self.untouched
        ]
        names = owed if owed and components_left <= len(owed) else list(self.wanted)
        return max(names, key=lambda n: (self.wanted[n][stratum], self.total[n], -SPLITS.index(n)))

    def give(self, name: str, content: Counter[Hashable]) -> None:
        self.wanted[name].subtract(content)
        self.total[name] -= sum(content.values())
        self.untouched.difference_update((name, s) for s in content)


def _apportioned(
    sizes: Mapping[Hashable, int], rate: float, *, least: int, above: Mapping[Hashable, float]
) -> Counter[Hashable]:
    """``rate`` of each stratum in whole records, the largest remainders rounded up.

    At least one of every stratum of more than ``least`` records. ``above`` is what rounding has
    given a stratum before.
    """
    exact = {s: n * rate for s, n in sizes.items()}
    parts = {s: max(int(exact[s]), int(n > least)) for s, n in sizes.items()}
    spare = round(sum(exact.values())) - sum(parts.values())
    by_remainder = sorted(sizes, key=lambda s: (parts[s] - exact[s] + above[s], repr(s)))
    for s in by_remainder[: max(0, spare)]:
        parts[s] += 1
    return Counter(parts)


def _strata(records: Sequence[Record], task: str) -> list[tuple[Hashable, ...]]:
    """What should be in proportion: the labels, or which tenth of the values a number is in."""
    if task != "regression":
        return [class_names(record.label) or ("",) for record in records]
    values = [record.label if isinstance(record.label, int | float) else 0.0 for record in records]
    ordered = sorted(values)
    bins = max(1, min(_BINS, len(values) // _BINS))
    borders = [ordered[len(ordered) * k // bins] for k in range(1, bins)]
    return [(bisect.bisect_right(borders, value),) for value in values]


def fold_strata(records: Sequence[Record], task: str) -> list[Hashable]:
    """What folds should have in proportion: the class, the rarest of several labels, or the tenth
    of the values that a number is in."""
    found = _strata(records, task)
    counts = Counter(stratum for several in found for stratum in several)
    return [min(several, key=lambda s: (counts[s], repr(s))) for several in found]


def components(records: Sequence[Record]) -> list[list[int]]:
    """Positions that content, group or looks bind together, directly or through others."""
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, record in enumerate(records):
        alike = [] if record.alike is None else [("alike", record.alike)]
        for tie in (*_ties(record), *alike):
            parent[root(i)] = root(first.setdefault(tie, i))
    found = defaultdict(list)
    for i in range(len(records)):
        found[root(i)].append(i)
    return list(found.values())


def _key(records: Iterable[Record], seed: int) -> str:
    """A random-looking order that only the seed and the contents determine."""
    content = min(record.sha256 or record.id for record in records)
    return hashlib.sha256(f"{seed}:{content}".encode("utf-8", "surrogatepass")).hexdigest()


def _carved_note(
    records: Sequence[Record], carved: Mapping[str, float], task: str, seed: int
) -> str:
    sizes = Counter(record.split for record in records)
    parts = ", ".join(f"{sizes[name]} as {name}" for name in SPLITS if name in carved)
    how = "stratified by value" if task == "regression" else "stratified"
    whole = sum(sizes[name] for name in {"train", *carved})
    return f"carved {parts} of {whole} records, {how}, seed {seed}"


def _check(manifest: Manifest, carved: set[str]) -> tuple[str, ...]:
    """Raises on an empty split or a class without an example; notes what may stay as it is."""
    sizes = Counter(record.split or "train" for record in manifest.records)
    required = [name for name in SPLITS if name == "train" or name in carved]
    for name in required:
        if not sizes[name]:
            raise DataError(
                f"no examples in {name}: {_row(sizes)}",
                where="splits",
                next_action="add data, or change --val_fraction and --test_fraction",
            )
    if manifest.task == "regression":
        return ()
    table = manifest.counts()
    rows = {c: Counter({s: table.get(s, Counter())[c] for s in SPLITS}) for c in manifest.classes}
    present = [name for name in SPLITS if sizes[name]]
    lacking = [c for c, row in rows.items() if any(not row[name] for name in present)]
    fatal = [c for c in lacking if any(not rows[c][name] for name in required)]
    if fatal and manifest.task == "single_label":
        said = named_list(f"{c} ({_row(rows[c])})" for c in fatal)
        raise DataError(
            f"{len(fatal)} classes have no example in some split: {said}",
            where="splits",
            next_action=_remedy([c for c in fatal if not rows[c]["train"]], carved),
        )
    held = [name for name in present if name != "train"]
    alone = [c for c in lacking if held and not any(rows[c][name] for name in held)]
    return tuple(
        f"{what}: " + printable(named_list(f"{c} ({_row(rows[c])})" for c in classes))
        for what, classes in (
            ("classes that only train has, so that nothing measures them", alone),
            ("classes without an example in some split", [c for c in lacking if c not in alone]),
        )
        if classes
    )


def _remedy(unlearned: Sequence[str], carved: set[str]) -> str:
    """What to do about classes that are missing from a split.

    Args:
      unlearned: those of them that train does not have.
      carved: the splits that the data does not name.
    """
    if unlearned:
        names = printable(named_list(unlearned, most=3))
        return f"move examples of {names} to train, or take them out of the other splits"
    flags = ", ".join(f"--{name}_fraction=0" for name in SPLITS if name in carved)
    return f"add examples of them, leave those classes out, or carve no such split ({flags})"


def _row(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in SPLITS)
