"""``tltf cache``: what frozen prefixes left on disk, and making room."""

from __future__ import annotations

import time
from pathlib import Path

from absl import flags

from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.data.cachefolder import cache_folder
from tltf.errors import ArgumentError, printable
from tltf.training import stored

FLAGS = flags.FlagValues()
flags.DEFINE_bool("list", False, "Show every stored prefix, the longest unused first.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_bool("clear", False, "Remove all that no run is filling.", flag_values=FLAGS)
flags.DEFINE_string("cache", "auto", "The folder, as of tltf train --cache.", flag_values=FLAGS)
flags.DEFINE_float("keep_megabytes", 0.0, "With --clear: the newest so many stay.",
                   lower_bound=0.0, flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    if values["list"].value == values["clear"].value:
        raise ArgumentError(
            "one of --list and --clear is needed",
            where="flags",
            next_action="start with tltf cache --list",
        )
    run_flags.only_where(values["clear"].value, values, "keep_megabytes", what="--clear")
    given = values["cache"].value
    folder = cache_folder() / "features" if given == "auto" else Path(given)
    if values["clear"].value:
        cap = int(values["keep_megabytes"].value * 1e6)
        before = sum(prefix.size_bytes for prefix in stored.stored_prefixes(folder))
        removed = stored.evict(folder, cap_bytes=cap)
        after = sum(prefix.size_bytes for prefix in stored.stored_prefixes(folder))
        freed, left = (before - after) / 1e6, after / 1e6
        print(f"{len(removed)} removed, {freed:.1f} MB freed, {left:.1f} MB left in {folder}")
        return
    prefixes = stored.stored_prefixes(folder)
    for prefix in prefixes:
        print(line(prefix))
    total = sum(prefix.size_bytes for prefix in prefixes) / 1e6
    print(f"{len(prefixes)} prefixes, {total:.1f} MB in {folder}")


def line(prefix: stored.StoredPrefix) -> str:
    """``62.1 MB  1200 rows  used 2 h ago  block_16_project_BN 7x7x320  FOLDER``."""
    hours = max(0.0, time.time() - prefix.used) / 3600.0
    return (
        f"{prefix.size_bytes / 1e6:9.1f} MB  {prefix.rows:8d} rows  used {hours:6.1f} h ago"
        f"  {printable(prefix.about)}  {prefix.folder.name}"
    )


PROGRAM = Program(
    name="tltf cache",
    about="""what frozen networks computed and runs will use again.

  tltf cache --list
  tltf cache --clear --keep_megabytes=1000""",
    flag_values=FLAGS,
    run=run,
)
