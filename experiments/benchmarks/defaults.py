"""The defaults of ``tltf train`` beside the simplest rivals, on the same labels and tests.

    python -m experiments.benchmarks.defaults --workdir=FOLDER --sets=cats_dogs --seeds=1

For each set, number of labels per class and seed: the loop of the Keras guide, a logistic
regression with its strength by cross-validation on the last pooled features (``probe``, and
``probe_raw`` without a scaler), and ``tltf.transfer`` by effort. The test part of a seed is drawn
first, is the same for all numbers of labels, and never chooses anything.

The data is looked for in ``$TLTF_TEST_DATA``, the weights in ``$KERAS_HOME``. Each result is a line
of ``FOLDER/rows.jsonl`` as soon as it is there: the same command again goes on, and
``--only=table`` prints what there is.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.benchmarks import defaults_cells as cells
from experiments.benchmarks import defaults_figures as figures
from experiments.benchmarks import defaults_rivals as rivals
from experiments.benchmarks.defaults_page import page
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.errors import ArgumentError, DataError, TltfError, nearest

SETS = (*cells.PHOTOS, *cells.TEXTS)
FLAGS = flags.FlagValues()
flags.DEFINE_list("sets", list(SETS), "Photos and texts.", flag_values=FLAGS)
flags.DEFINE_list("labels", [], "Per class, or all; of photos 10,25,all and of texts 8,32,128,all"
                  " unless it is given.", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("seeds", 3, "Draws.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("first_seed", 0, "The first of them.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_list("methods", ["guide", *rivals.PROBES, *rivals.EFFORTS],
                  f"Of {', '.join(rivals.METHODS)}.", flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("judged", "default", "The method that is compared with the rivals.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("only", "", ["", "table"], "Print the table of the rows that there are.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("workdir", None, "Where rows, features and runs go.", flag_values=FLAGS)

Job = tuple[str, str, int, str]
"""A set, labels, a seed and a method: the key of a row."""


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    _check(values)
    work = Path(values.workdir).absolute()
    if values.only != "table":
        import_tensorflow()
        work.mkdir(parents=True, exist_ok=True)
        seeds = range(values.first_seed, values.first_seed + values.seeds)
        sets, labels, methods = (_listed(values, name) for name in ("sets", "labels", "methods"))
        measure(jobs(sets, labels, seeds, methods), work)
    rows = figures.read(work / "rows.jsonl").values()
    print(*page(figures.Figures(rows), values.judged), sep="\n")


def _check(values: flags.FlagValues) -> None:
    cells.check_labels(values.labels)
    for flag, known in (("sets", SETS), ("methods", rivals.METHODS)):
        for name in _listed(values, flag):
            if name not in known:
                raise ArgumentError(f"{flag}={name!r}, expected some of {', '.join(known)}"
                                    f"{nearest(name, known)}", where=f"--{flag}")  # fmt: skip
    if values.judged not in rivals.METHODS:
        raise ArgumentError(f"judged={values.judged!r}{nearest(values.judged, rivals.METHODS)}",
                            where="--judged")  # fmt: skip


def _listed(values: flags.FlagValues, name: str) -> list[str]:
    """A flag's list."""
    return list(values[name].value or ())


def jobs(
    sets: Sequence[str], labels: Sequence[str], seeds: Sequence[int], methods: Sequence[str]
) -> Iterator[Job]:
    """Seed by seed, so that there is a whole table early; texts have no guide."""
    for seed, data in itertools.product(seeds, sets):
        kind = cells.modality(data)
        for count, method in itertools.product(labels or cells.LABELS[kind], methods):
            if (kind, method) != ("texts", "guide"):
                yield data, count, seed, method


def measure(wanted: Iterator[Job], work: Path) -> None:
    """Adds the rows that are not there yet.

    Raises:
      DataError: some could not be computed; the others are there.
    """
    rows, failed = work / "rows.jsonl", []

    @functools.cache
    def source(data: str) -> tuple[list[cells.Example], rivals.Features]:
        path = work / "features" / f"{data.replace('/', '_')}.npz"
        return cells.examples(data, work), rivals.Features(cells.modality(data), path)

    for job in wanted:
        if job in figures.read(rows):
            continue
        data, labels, seed, method = job
        examples, features = source(data)
        title = f"{data} {labels} labels, seed {seed}, {method}"
        try:
            cell = cells.cell(data, examples, labels=labels, seed=seed, work=work)
            row = one(cell, method, features, work)
        except ArgumentError:
            raise
        except TltfError as error:
            print(f"{title}: failed: {error}", flush=True)
            failed.append(title)
            continue
        figures.append(rows, row)
        print(f"{title}: {row['accuracy']:.4f}, log-loss {row['nll']:.4f}, {row['seconds']:.0f} s",
              flush=True)  # fmt: skip
    if failed:
        raise DataError(f"{len(failed)} rows are missing: {'; '.join(failed)}", where=rows)


def one(cell: cells.Cell, method: str, features: rivals.Features, work: Path) -> dict[str, Any]:
    """The row of a method on a cell."""
    answer = rivals.answered(method, cell, features=features, work=work)
    return {
        "set": cell.data,
        "labels": cell.labels,
        "seed": cell.seed,
        "method": method,
        "n_train": len(cell.train),
        "n_test": len(cell.test),
        "accuracy": sum(answer.right.values()) / len(cell.test),
        "nll": answer.nll,
        "seconds": answer.seconds,
        "right": answer.right,
    }


PROGRAM = Program(
    name="python -m experiments.benchmarks.defaults",
    about=(__doc__ or "").strip(),
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))
