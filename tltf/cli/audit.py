"""``tltf audit``: what is in the data, and what is wrong with it, before anything is trained."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from tltf import rundir
from tltf import spec as names
from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program
from tltf.data.textfiles import check_encoding
from tltf.errors import DataError, named_list, printable
from tltf.spec import DataSpec

MOST_LISTED = 40
DEFAULT = DataSpec(source="-")
FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "Image folder, CSV/TSV/JSON-lines table, tfds:NAME or digits.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("out", None, "Folder for audit.json and audit.html; none if left out.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("task", DEFAULT.task, list(names.TASKS), "What a label is.", flag_values=FLAGS)
flags.DEFINE_string("group_column", None, "Column whose equal values stay in one split.",
                    flag_values=FLAGS)  # fmt: skip
spec_flags.define_encoding(FLAGS)
flags.DEFINE_string("label_separator", DEFAULT.label_separator, spec_flags.LABEL_SEPARATOR,
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("max_image_pixels", DEFAULT.max_image_pixels,
                     "Larger images are listed as bad.", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("fail_on_leak", False, "Exit 65 when two splits hold (nearly) the same.",
                  flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "data")
    source = values["data"].value
    run_flags.check_source(source)
    check_encoding(values["encoding"].value)
    out = Path(values["out"].value) if values["out"].value else None
    if out is not None:
        rundir.check_writable(out)
    spec = DataSpec(
        source=source,
        task=values["task"].value,
        group_column=values["group_column"].value,
        encoding=values["encoding"].value,
        label_separator=values["label_separator"].value,
        max_image_pixels=values["max_image_pixels"].value,
        fail_on_leak=values["fail_on_leak"].value,
    )
    from tltf.data.audit import is_clean
    from tltf.stages.auditing import run_audit

    found = run_audit(spec, out=out)
    print(*table(found), sep="\n")
    if out is not None:
        print(f"report: {out / 'audit.html'}")
    if not is_clean(found):
        raise DataError(
            _trouble(found),
            where=source,
            kept=f"the list in {out / 'audit.json'}" if out else "",
            next_action="repair or remove them" if out else "add --out=FOLDER for the whole list",
        )


def table(found: Mapping[str, Any]) -> list[str]:
    """The findings as lines for a terminal."""
    counts = found["counts"]
    parts = ", ".join(f"{counts[name]} {name}" for name in ("ok", "warning", "bad", "ignored"))
    lines = [f"{counts['found']} found: {parts}", "", *_class_table(found), *_statistics(found)]
    for outcome in ("bad", "warning"):
        rows = [row for row in found["files"] if row["outcome"] == outcome]
        if rows:
            lines += ["", f"{outcome}:"]
            lines += [f"  {row['path']}  {row['reason']}" for row in rows[:MOST_LISTED]]
        if len(rows) > MOST_LISTED:
            lines.append(f"  and {len(rows) - MOST_LISTED} more")
    lines += _pairs(found["duplicates"])
    if found["notes"]:
        lines += ["", "notes:"]
        lines += [line for note in found["notes"] for line in _wrapped(note)]
    lines += [f"problem: {problem}" for problem in found["problems"]]
    return lines


def _class_table(found: Mapping[str, Any]) -> list[str]:
    classes = found["classes"]
    rows = sorted({name for counts in classes.values() for name in counts})
    if not rows:
        return []
    width = min(40, max(len("class"), *map(len, rows)))
    heads = [split or "all" for split in classes]
    lines = ["class".ljust(width) + "".join(f"{head:>9}" for head in heads)]
    for name in rows[:MOST_LISTED]:
        cells = "".join(f"{counts.get(name, 0):>9}" for counts in classes.values())
        lines.append(name[:width].ljust(width) + cells)
    if len(rows) > MOST_LISTED:
        lines.append(f"and {len(rows) - MOST_LISTED} more classes")
    if found["imbalance"]:
        lines.append(f"the largest class has {found['imbalance']:.1f} times the smallest")
    return lines


def _statistics(found: Mapping[str, Any]) -> list[str]:
    lines = []
    if images := found["images"]:
        width, height = images["width"], images["height"]
        lines += [
            f"images: {_tally(images['formats'])}; {_tally(images['channels'])}",
            f"size: {width['min']:.0f} to {width['max']:.0f} wide (median {width['median']:.0f}),"
            f" {height['min']:.0f} to {height['max']:.0f} high (median {height['median']:.0f});"
            f" width / height {images['aspect']['min']:.2f} to {images['aspect']['max']:.2f}",
            f"turned by EXIF: {images['turned_by_exif']}; another extension than content:"
            f" {images['misnamed']}; suspect pixels: {images['suspect']}",
        ]
    if texts := found["texts"]:
        words = texts["words"]
        lines.append(
            f"texts: {texts['n']}, {words['min']:.0f} to {words['max']:.0f} words (median"
            f" {words['median']:.0f}); {texts['repeated']} repeated,"
            f" {texts['with_lost_characters']} with lost characters"
        )
    twins = found["duplicates"]
    lines.append(
        f"duplicates: {twins['n_exact_copies']} exact copies in {twins['n_exact_groups']} groups,"
        f" {twins['n_conflicts']} with different labels; {twins['n_near_pairs']} near pairs,"
        f" {twins['n_near_across_splits']} across splits"
    )
    if twins["not_compared"]:
        lines.append(f"  {twins['not_compared']}")
    return ["", *lines]


def _pairs(twins: Mapping[str, Any]) -> list[str]:
    lines = [f"  {_names(group)}" for group in twins["exact"] if group["conflict"]][:MOST_LISTED]
    lines = ["", "copies with different labels:", *lines] if lines else []
    near = [f"  {_names(pair)}  {pair['similarity']:.3f}" for pair in twins["near"]][:MOST_LISTED]
    return lines + (["", "near-duplicates:", *near] if near else [])


def _names(group: Mapping[str, Any]) -> str:
    return " ~ ".join(f"{m['path']} ({m['label']}, {m['split']})" for m in group["files"])


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, 96, initial_indent="  ", subsequent_indent="    ")


def _trouble(found: Mapping[str, Any]) -> str:
    bad = [f"{r['path']} ({r['reason']})" for r in found["files"] if r["outcome"] == "bad"]
    parts = [f"{len(bad)} of {found['counts']['found']} files are bad: {named_list(bad)}"]
    return printable("; ".join([*(parts if bad else []), *found["problems"]]))


PROGRAM = Program(
    name="tltf audit",
    about="""looks at every file of a data set: bad ones, duplicates, labels, sizes.

  tltf audit --data=PHOTOS --out=AUDIT

Exit code 0 if every file and label can be used, 65 if not.""",
    flag_values=FLAGS,
    run=run,
)
