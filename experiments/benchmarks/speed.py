"""Wall time of what people wait for: the command's start, a first run, a second run.

    python -m experiments.benchmarks.speed --workdir=FOLDER

G11: `tltf --help` and a flag error, in processes of their own. G5: two runs on the same
photos with other head settings, the second one on stored features; training wall, import,
report and export left out. Medians and ranges over ``--repeats`` interleaved repeats.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.benchmarks.quality import unpacked
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.interval import save_interval
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec

FLAGS = flags.FlagValues()
flags.DEFINE_string("set", "cats_dogs", "Image set.", flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2", "With weights at hand.", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 3, "Of each measurement.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where the runs go.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    work = Path(values["workdir"].value)
    work.mkdir(exist_ok=True)
    repeats = values["repeats"].value
    table = [*cold_start(repeats)]
    import_tensorflow()
    data = unpacked(values["set"].value, work / "data")
    table.append(second_run(data, values["backbone"].value, work, repeats))
    for row in table:
        print("{goal:<4} {what:<40} {median:8.2f} ({low:.2f} to {high:.2f})  target {target}"
              .format(**row))  # fmt: skip
    (work / "speed.json").write_text(json.dumps(table, indent=2) + "\n")


def cold_start(repeats: int) -> list[dict[str, Any]]:
    """Seconds of two command lines that import no TensorFlow."""
    program = [sys.executable, "-c", "from tltf.cli.app import main; main()"]

    def seconds(arguments: list[str]) -> float:
        started = time.monotonic()
        subprocess.run([*program, *arguments], capture_output=True, check=False)
        return time.monotonic() - started

    return [
        _row("G11", what, [seconds(arguments) for _ in range(repeats)], "<= 0.3 s")
        for what, arguments in (
            ("tltf --help, seconds", ["--help"]),
            ("a flag error, seconds", ["train", "--bakbone=x"]),
        )
    ]


def second_run(data: Path, backbone: str, work: Path, repeats: int) -> dict[str, Any]:
    """T(first run) / T(second run with another head), training stage only."""
    spec = TransferSpec(
        data=DataSpec(source=str(data)),
        backbone=BackboneSpec(name=backbone),
        phases=(Phase("head", 10, 1e-3, unfreeze="none"),),
        export="none",
    )
    other = dataclasses.replace(spec, head=HeadSpec(hidden=(64,), dropout=0.5))
    ratios = []
    for i in range(repeats):
        cache = work / f"cache-{i}"
        shutil.rmtree(cache, ignore_errors=True)
        first, second = (
            _training_seconds(dataclasses.replace(s, cache=str(cache)), work / f"speed-{i}-{name}")
            for s, name in ((spec, "first"), (other, "second"))
        )
        ratios.append(first / second)
    return _row("G5", "first run / second run, other head", ratios, ">= 10")


def _training_seconds(spec: TransferSpec, folder: Path) -> float:
    """From the manifest to the trained model, in a fresh run folder."""
    from tltf import rundir
    from tltf.stages.data import run_data
    from tltf.stages.training import run_training

    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    with rundir.opened(folder) as opened:
        opened.clear()
        manifest = run_data(spec, opened, say=quiet)
        started = time.monotonic()
        run_training(
            spec, manifest, opened, interval=save_interval("60s"), say=quiet, progress=False
        )
        return time.monotonic() - started


def _row(goal: str, what: str, values: list[float], target: str) -> dict[str, Any]:
    return {
        "goal": goal,
        "what": what,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "target": target,
    }


PROGRAM = Program(
    name="experiments.benchmarks.speed",
    about="wall time of the command's start, and of a second run on stored features.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))
