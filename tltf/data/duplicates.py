"""Records that are the same, or nearly: exact copies, pictures that look alike, equal texts."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tltf.data import perceptual
from tltf.data.manifest import Record
from tltf.data.perceptual import near_pairs
from tltf.data.scan import Finding
from tltf.errors import named_list, printable


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two records that look alike: cosine of their fingerprints, 1.0 for equal texts."""

    first: Record
    second: Record
    similarity: float

    @property
    def conflict(self) -> bool:
        """Whether they have different labels."""
        return self.first.label != self.second.label

    @property
    def across(self) -> bool:
        """Whether they stand in two splits."""
        return self.first.split != self.second.split


def exact_groups(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Records with the same bytes (or the same text), the larger groups first."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.sha256:
            groups[record.sha256].append(record)
    found = [tuple(group) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group[0].id))


def near_duplicates(
    records: Sequence[Record], findings: Mapping[str, Finding], *, across_splits: bool = False
) -> list[Pair]:
    """Pairs that look alike without being exact copies.

    Pictures by their fingerprint, texts by what is left without case, spaces and width of
    characters.

    Args:
      records: scanned.
      findings: of the scan, by record id.
      across_splits: only pairs that stand in two splits.

    Returns:
      The most alike first.
    """
    firsts = _one_of_each(records, across_splits=across_splits)
    texts = [record for record in firsts if record.path is None]
    images = [record for record in firsts if record.path is not None]
    prints = [findings[r.id].fingerprint if r.id in findings else "" for r in images]
    groups = [record.split for record in images] if across_splits else None
    pairs = [
        Pair(first=images[i], second=images[j], similarity=round(cosine, 4))
        for i, j, cosine in near_pairs(prints, groups=groups)
        if images[i].sha256 != images[j].sha256
    ]
    return pairs + _equal_texts(texts, across_splits=across_splits)


def with_alike(records: Sequence[Record], pairs: Iterable[Pair]) -> list[Record]:
    """The records, those that are bound by pairs with one ``alike``, directly or through others."""
    parent = {record.id: record.id for record in records}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    bound = set()
    for pair in pairs:
        parent[root(pair.first.id)] = root(pair.second.id)
        bound |= {pair.first.id, pair.second.id}
    contents: dict[str, str] = {}
    for record in records:
        if record.id in bound:
            name = root(record.id)
            contents[name] = min(record.sha256, contents.get(name, record.sha256))
    return [
        dataclasses.replace(record, alike=contents[root(record.id)][:16])
        if record.id in bound else record
        for record in records
    ]  # fmt: skip


def across(pairs: Iterable[Pair], records: Iterable[Record]) -> list[Pair]:
    """Those pairs that stand in two splits of these records."""
    placed = {record.id: record for record in records}
    found = [
        dataclasses.replace(pair, first=placed[pair.first.id], second=placed[pair.second.id])
        for pair in pairs
        if pair.first.id in placed and pair.second.id in placed
    ]
    return [pair for pair in found if pair.across]


@dataclass(frozen=True, kw_only=True)
class Uncompared:
    """Pictures, one of each content, among which nothing alike was looked for.

    Args:
      beyond: those behind the most that are compared, each with each.
      plain: those that are too small or too flat to be told apart.
    """

    beyond: int
    plain: int

    def __str__(self) -> str:
        parts = []
        if self.beyond:
            parts.append(
                f"{self.beyond} pictures beyond the first {perceptual.MOST_COMPARED} were not"
                " compared with any other, so look-alikes among them are not found"
            )
        if self.plain:
            parts.append(
                f"{self.plain} pictures are smaller than {perceptual.SMALLEST_SIDE} pixels or too"
                " flat to be compared"
            )
        return "; ".join(parts)


def uncompared(
    records: Sequence[Record], findings: Mapping[str, Finding], *, across_splits: bool = False
) -> Uncompared:
    """What :func:`near_duplicates` of the same arguments did not look at."""
    firsts = _one_of_each(records, across_splits=across_splits)
    images = [record for record in firsts if record.path is not None]
    known = sum(bool(r.id in findings and findings[r.id].fingerprint) for r in images)
    beyond = max(0, known - perceptual.MOST_COMPARED)
    return Uncompared(beyond=beyond, plain=len(images) - known)


def near_note(pairs: Sequence[Pair]) -> str:
    """One sentence about near-duplicates across splits, or an empty one."""
    if not pairs:
        return ""
    named = named_list(
        f"{p.first.id} in {p.first.split} ~ {p.second.id} in {p.second.split}" for p in pairs
    )
    return (
        f"{len(pairs)} near-duplicate pair(s) across splits, so the test may be easier than it"
        f" looks: {printable(named)}; give them one group to keep them together"
    )


def normalized(text: str) -> str:
    """What two texts are compared by.

    >>> normalized("  Large\\t ONE ")
    'large one'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _one_of_each(records: Sequence[Record], *, across_splits: bool) -> list[Record]:
    """One record for each content (and split): exact copies are another matter."""
    firsts: dict[tuple[str, str | None], Record] = {}
    for record in records:
        split = record.split if across_splits else None
        firsts.setdefault((record.sha256 or f"id {record.id}", split), record)
    return list(firsts.values())


def _equal_texts(records: Sequence[Record], *, across_splits: bool) -> list[Pair]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[normalized(record.text or "")].append(record)
    pairs = []
    for first, *others in groups.values():
        for other in others:
            pair = Pair(first=first, second=other, similarity=1.0)
            if first.sha256 != other.sha256 and (pair.across or not across_splits):
                pairs.append(pair)
    return pairs
