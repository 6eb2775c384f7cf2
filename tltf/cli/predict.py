"""``tltf predict``: one JSON line for each input, in their order."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from tltf.cli import run_flags, shard_flags, spec_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.data.textfiles import check_encoding
from tltf.errors import ArgumentError, DataError, InputMissingError
from tltf.serving.answerfile import answer_file, check_answer_file, is_answer_file
from tltf.terminal import Bar

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A run folder, a folder of versions, or one version.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("inputs", None, "Files: a name, folder, glob, tables with a column"
                    " path or text, or - for a line of stdin each.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("batch_size", 32, "Inputs per call of the model.", lower_bound=1,
                     flag_values=FLAGS)  # fmt: skip
spec_flags.define_encoding(FLAGS)
shard_flags.define(FLAGS)
flags.DEFINE_bool("strict", False, "Exit 65 when an input fails.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "model", "inputs")
    model = Path(values["model"].value)
    if not model.exists():
        raise InputMissingError(
            "there is no such model", where=model, next_action="pass --model=RUN or a servable"
        )
    out = values["out"].value
    one_file = bool(out) and is_answer_file(out)
    run_flags.only_where(bool(out) and not one_file, values, "shards", "runner", "beam",
                         what="--out=FOLDER, which is filled shard by shard")  # fmt: skip
    given = values["inputs"].value
    # Looked at before TensorFlow is imported: a wrong name answers at once.
    from tltf.serving.inputs import check_given, items, known_count

    check_encoding(values["encoding"].value)
    check_given(given)
    if one_file:
        check_answer_file(Path(out))
    elif out:
        _run_shards(values)
        return
    import_tensorflow()
    from tltf.serving.predicting import predictions
    from tltf.trained import opened_model

    opened = opened_model(model, max_image_pixels=values["max_image_pixels"].value or 0)
    inputs = items(given, sys.stdin, key=opened.key, encoding=values["encoding"].value,
                   say=run_flags.say)  # fmt: skip
    rows = predictions(opened, inputs, batch_size=values["batch_size"].value)
    with contextlib.ExitStack() as stack:
        write = _print_row
        if one_file:
            write = stack.enter_context(
                answer_file(Path(out), task=opened.task, classes=opened.classes)
            )
        done, failed = _write(rows, known_count(given, key=opened.key), write)
    print(f"{done - failed} answered, {failed} failed", file=sys.stderr)
    _check_failed(failed, done, values, next_action="see the lines with an error")


def _run_shards(values: flags.FlagValues) -> None:
    """Into files, shard by shard."""
    if values["inputs"].value == "-":
        raise ArgumentError(
            "--inputs=- with --out, whose shards are read again after a kill",
            where="--inputs",
            next_action="pass files or a table",
        )
    shards = shard_flags.checked(values)
    import_tensorflow()
    from tltf.stages.bulk import PREDICT, Job

    job = Job(kind=PREDICT, inputs=values["inputs"].value, out=values["out"].value, shards=shards,
              model=values["model"].value, batch_size=values["batch_size"].value,
              encoding=values["encoding"].value,
              max_image_pixels=values["max_image_pixels"].value or 0)  # fmt: skip
    total = shard_flags.run_job(job, values)
    _check_failed(total.failed, total.inputs, values, next_action=f"see {job.out}/bad-*.jsonl")


def _check_failed(failed: int, done: int, values: flags.FlagValues, *, next_action: str) -> None:
    """Raises DataError where ``--strict`` lets no input fail."""
    if failed and values["strict"].value:
        raise DataError(
            f"{failed} of {done} inputs failed",
            where="--inputs",
            kept="the answers to the others",
            next_action=next_action,
        )


def _print_row(row: Mapping[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def _write(
    rows: Iterator[dict[str, Any]], expected: int | None, write: Callable[[Mapping[str, Any]], None]
) -> tuple[int, int]:
    """The rows to where they go, the progress to a terminal; how many there were, and failed."""
    done = failed = 0
    with Bar("predict", expected or 0, unit="inputs", shown=expected is not None) as bar:
        for row in rows:
            done += 1
            failed += "error" in row
            write(row)
            bar.advance(1)
    return done, failed


PROGRAM = Program(
    name="tltf predict",
    about="""labels files with a trained run or a published servable, one JSON line each.

  tltf predict --model=RUN --inputs='PHOTOS/*.jpg'

Each row has the label, the probabilities in the order of its classes, and whether the answer is
accepted. With --out=ANSWERS.csv or .jsonl the rows go into that file; with --out=FOLDER shard by
shard, and the same command does what is missing.""",
    flag_values=FLAGS,
    run=run,
)
