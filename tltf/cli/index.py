"""``tltf index``: a table of more images than memory should list, scanned and split once."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from tltf import rundir
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.data.textfiles import check_encoding
from tltf.errors import ArgumentError
from tltf.spec import BAD_FILES, DataSpec

DEFAULT = DataSpec(source="-")
FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "CSV/TSV/JSON-lines table with the columns path and label.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("out", None, "Folder of the index, for --data of tltf train.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Of the split.", flag_values=FLAGS)
flags.DEFINE_float("val_fraction", DEFAULT.val_fraction, "Share for validation, unless the table"
                   " names it.", 0.0, 1.0, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("test_fraction", DEFAULT.test_fraction, "Share for the test, unless the table"
                   " names it.", 0.0, 1.0, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("group_column", None, "Column whose equal values stay in one split.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("encoding", DEFAULT.encoding, "Of the table.", flag_values=FLAGS)
flags.DEFINE_integer("max_image_pixels", DEFAULT.max_image_pixels, "Larger images are bad.",
                     lower_bound=1, flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("bad_files", DEFAULT.bad_files, list(BAD_FILES), "What bad rows and files mean.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_float("max_bad_fraction", DEFAULT.max_bad_fraction, "With skip, how many there may"
                   " be.", 0.0, 1.0, flag_values=FLAGS)  # fmt: skip


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "data", "out")
    run_flags.check_source(values["data"].value)
    check_encoding(values["encoding"].value)
    names = ("seed", "val_fraction", "test_fraction", "group_column", "encoding",
             "max_image_pixels", "bad_files", "max_bad_fraction")  # fmt: skip
    given = {name: values[name].value for name in names}
    if given["val_fraction"] + given["test_fraction"] >= 1.0:
        raise ArgumentError(
            f"val_fraction={given['val_fraction']} and test_fraction={given['test_fraction']}"
            " leave nothing to train on",
            where="flags",
            next_action="make them smaller",
        )
    out = Path(values["out"].value)
    rundir.check_writable(out, flag="--out")
    from tltf.data.indexing import Settings, build
    from tltf.stages.data import described
    from tltf.terminal import Bar

    with Bar("index", 0, unit="rows") as bar:
        before = 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            bar.total = total
            bar.advance(done - before)
            before = done

        manifest = build(Path(values["data"].value), out, Settings(**given), progress=progress)
    for sentence in described(manifest):
        print(sentence, file=sys.stderr)
    print(f"index: {out}")
    print(f"next: tltf train --data={out} --backbone=MobileNetV2 --workdir=RUN")


PROGRAM = Program(
    name="tltf index",
    about="""scans and splits a table of millions of images once, and keeps it on disk.

  tltf index --data=PHOTOS.csv --out=PHOTOS.index --val_fraction=0.01 --test_fraction=0.01
  tltf train --data=PHOTOS.index --backbone=MobileNetV2 --workdir=RUN

The same command again goes on after a kill. What follows opens the index at once, whatever its
size, and does not look at the files again before it decodes them.""",
    flag_values=FLAGS,
    run=run,
)
