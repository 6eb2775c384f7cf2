"""audit.html: what was found in the data, with thumbnails of what a person should look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tltf.evaluation import page

MOST_ROWS = 300
MOST_PICTURES = 60
"""Of a kind; a thumbnail is about 4 KB, and the page stays under 3 MB."""
_OUTCOMES = ("ok", "warning", "bad", "ignored")


def write_html(found: Mapping[str, Any], thumbnails: Mapping[str, str]) -> str:
    """The page as text.

    Args:
      found: audit.json as a dict, see :func:`tltf.data.audit.audit`.
      thumbnails: row -> JPEG in base64, for some of what :func:`shown` names.
    """
    files = {name: [row for row in found["files"] if row["outcome"] == name] for name in _OUTCOMES}
    view = {
        "found": found,
        "clean": not files["bad"] and not found["problems"],
        "files": {name: rows[:MOST_ROWS] for name, rows in files.items()},
        "more": {name: max(0, len(rows) - MOST_ROWS) for name, rows in files.items()},
        "pictures": {
            name: f"data:image/jpeg;base64,{data}" for name, data in thumbnails.items() if data
        },
        "classes": _classes(found["classes"]),
        "splits": list(found["classes"]),
        "groups": _groups(found["duplicates"]["exact"]),
        "pairs": _groups(found["duplicates"]["near"]),
        "images": found["images"],
        "texts": found["texts"],
    }
    return page.rendered("audit.html", view)


def shown(found: Mapping[str, Any]) -> Iterator[str]:
    """The rows that the page has a thumbnail for, if they are images."""
    for row in [r for r in found["files"] if r["outcome"] == "warning"][:MOST_PICTURES]:
        yield row["path"]
    for kind in ("exact", "near"):
        for group in _groups(found["duplicates"][kind]):
            yield from (member["path"] for member in group["files"])


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The worst first: different labels, then across splits."""
    ordered = sorted(groups, key=lambda g: (not g["conflict"], not g.get("across_splits", False)))
    return ordered[: MOST_PICTURES // 2]


def _classes(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    names = sorted({name for row in counts.values() for name in row})
    totals = {name: sum(row.get(name, 0) for row in counts.values()) for name in names}
    most = max(totals.values(), default=0)
    return [
        {
            "name": name,
            "counts": [row.get(name, 0) for row in counts.values()],
            "total": totals[name],
            "share": f"{100 * totals[name] / most:.1f}" if most else "0",
        }
        for name in names[:MOST_ROWS]
    ]
