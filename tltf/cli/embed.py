"""``tltf embed``: features of a frozen network for many images, shard by shard."""

from __future__ import annotations

from absl import flags

from tltf.backbones import catalog
from tltf.cli import run_flags, shard_flags, spec_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.data.textfiles import check_encoding
from tltf.errors import ArgumentError

POOLINGS = ("avg", "max", "flatten")
FORMATS = ("store", "tfrecord", "parquet", "arrayrecord")

FLAGS = flags.FlagValues()
flags.DEFINE_string("inputs", None, "Files: a folder, a glob, or a table with a column path.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_string("backbone", None, "One of keras.applications, or file:RUN.", flag_values=FLAGS)
flags.DEFINE_string("weights", "imagenet", "imagenet, none, or the path of a weight file.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("image_size", None, "Input side in pixels; the network's own if left out.",
                     flag_values=FLAGS)  # fmt: skip
flags.DEFINE_enum("pooling", "avg", list(POOLINGS), "From maps to one vector.", flag_values=FLAGS)
flags.DEFINE_enum(
    "format",
    "store",
    list(FORMATS),
    "store is a folder for --cache of tltf train; the others are files with id, sha256 and"
    " features.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("batch_size", 32, "Images per call of the network.", lower_bound=1,
                     flag_values=FLAGS)  # fmt: skip
spec_flags.define_encoding(FLAGS)
shard_flags.define(FLAGS)


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "inputs", "backbone", "out")
    choice = catalog.lookup(values["backbone"].value)
    if choice.kind in catalog.TEXT_KINDS:
        raise ArgumentError(
            f"{choice.text} reads texts, and tltf embed computes features of images",
            where="--backbone",
            next_action="use tltf.load(RUN).features of a run on texts, or its signature features",
        )
    if values["weights"].value == "imagenet":
        catalog.check_published(choice)
    check_encoding(values["encoding"].value)
    shards = shard_flags.checked(values)
    import_tensorflow()
    from tltf.stages import featurefiles
    from tltf.stages.bulk import EMBED, Job

    featurefiles.check_form(values["format"].value)
    job = Job(
        kind=EMBED,
        inputs=values["inputs"].value,
        out=values["out"].value,
        shards=shards,
        backbone=values["backbone"].value,
        weights=values["weights"].value,
        image_size=values["image_size"].value,
        pooling=values["pooling"].value,
        form=values["format"].value,
        batch_size=values["batch_size"].value,
        encoding=values["encoding"].value,
        max_image_pixels=values["max_image_pixels"].value or 0,
    )
    shard_flags.run_job(job, values)
    if job.form == "store":
        print(f"next: tltf train --data=PHOTOS --backbone={job.backbone} --cache={job.out}")


PROGRAM = Program(
    name="tltf embed",
    about="""computes features of a frozen network for many images, shard by shard.

  tltf embed --inputs='PHOTOS/**/*.jpg' --backbone=MobileNetV2 --out=FEATURES
  tltf embed ... --runner=DirectRunner \\
    --beam=--direct_num_workers=4,--direct_running_mode=multi_processing

The same command again does the shards that are missing. Files that cannot be used are named in
OUT/bad-*.jsonl.""",
    flag_values=FLAGS,
    run=run,
)
