"""Flags of work that is done shard by shard, and what is said of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tltf import rundir
from tltf.cli import run_flags
from tltf.errors import ArgumentError
from tltf.serving.inputs import check_given, known_count
from tltf.terminal import Bar

if TYPE_CHECKING:
    from tltf.stages.bulk import Counts, Job

RUNNERS = ("local", "DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")
INPUTS_A_SHARD = 2048
SHARDS_OF_A_TABLE = 64


def define(values: flags.FlagValues) -> None:
    """Where to, in how many shards, and by whom."""
    flags.DEFINE_string("out", None, "Folder for the shards.", flag_values=values)
    flags.DEFINE_integer("shards", None, "How many; by the number of inputs if left out.",
                         lower_bound=1, flag_values=values)  # fmt: skip
    flags.DEFINE_integer("max_image_pixels", None, "Larger images fail; by default the limit of the"
                         " model's training, or 64 million.",
                         lower_bound=1, flag_values=values)  # fmt: skip
    flags.DEFINE_enum("runner", "local", list(RUNNERS), "local, or a runner of Apache Beam, which"
                      " needs the extra tltf[beam].", flag_values=values)  # fmt: skip
    flags.DEFINE_list("beam", [], "Options of Beam, separated by commas.", flag_values=values)


def checked(values: flags.FlagValues) -> int:
    """The number of shards, when inputs, folder and runner are right.

    Raises:
      ArgumentError, InputMissingError, OutputError: they are not.
    """
    given = values["inputs"].value
    check_given(given)
    check_beam(values["runner"].value)
    run_flags.only_where(values["runner"].value != RUNNERS[0], values, "beam",
                         what="a --runner of Apache Beam")  # fmt: skip
    rundir.check_writable(Path(values["out"].value), flag="--out")
    if values["shards"].value:
        return int(values["shards"].value)
    count = known_count(given)
    return SHARDS_OF_A_TABLE if count is None else -(-count // INPUTS_A_SHARD)


def check_beam(runner: str) -> None:
    """Raises ArgumentError when the extra is not there; before any work is done."""
    if runner != RUNNERS[0] and importlib.util.find_spec("apache_beam") is None:
        raise ArgumentError(
            "apache-beam is not installed",
            where=f"--runner={runner}",
            next_action="pip install 'tltf[beam]', or use --runner=local",
        )


def run_job(job: Job, values: flags.FlagValues) -> Counts:
    """Does it, with a bar, says how it went, and returns that."""
    from tltf.stages.beampasses import run_job as run

    with Bar(job.kind, job.shards, unit="shards", shown=values["runner"].value == "local") as bar:
        total = run(job, runner=values["runner"].value, options=values["beam"].value,
                    progress=bar.advance)  # fmt: skip
    print(f"{total.inputs - total.failed} done, {total.failed} failed", file=sys.stderr)
    print(f"{job.kind}: {job.out}, {job.shards} shards")
    if total.failed:
        print(f"failed: {job.out}/bad-*.jsonl")
    return total
