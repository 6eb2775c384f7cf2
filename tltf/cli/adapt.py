"""``tltf adapt``: domain adaptation; the run evaluates, predicts and exports like any other."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from absl import flags

from tltf import storage
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.errors import ArgumentError
from tltf.methods import ADAPT_METHODS, NOT_OF_ADAPTATION, AdaptSpec
from tltf.spec import (
    BAD_FILES,
    MIXES,
    PRECISIONS,
    BackboneSpec,
    DataSpec,
    HeadSpec,
    Phase,
    TransferSpec,
)

DEFAULT = TransferSpec(
    data=DataSpec(source="-", test_fraction=0.0),
    backbone=BackboneSpec(name="-"),
    head=HeadSpec(hidden=(256,), dropout=0.0),
    phases=(Phase("adapt", 30, 1e-3, unfreeze="none"),),
    batch_size=64,
    augment="none",
    adapt=AdaptSpec(),
)
FLAGS = flags.FlagValues()


def _define() -> None:
    phase, values = DEFAULT.phases[0], {"flag_values": FLAGS}
    text, whole, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("source", None, "Labelled data: image folder, table, tfds:NAME or digits; several with"
         " commas are drawn from by their nearness to the target.", **values)  # fmt: skip
    text("target", None, "Data to adapt to: class folders (their labels are used for the final"
         " number only), or a flat folder of images.", **values)  # fmt: skip
    text("backbone", None, "One of keras.applications, small_cnn, mlp, or file:RUN.", **values)
    text("weights", DEFAULT.backbone.weights, "imagenet, none, or a weight file.", **values)
    whole("image_size", None, "Input side in pixels; the recipe's if left out.", **values)
    flags.DEFINE_enum("method", DEFAULT.adapt.method, list(ADAPT_METHODS), "How.", **values)
    number("term_weight", None, "Factor of the method's loss; its default if left out.", **values)
    whole("shots", DEFAULT.adapt.shots, "Labelled target examples of each class to learn from, by"
          " the source-only model too; no number counts them.", **values)  # fmt: skip
    flags.DEFINE_enum("mix", DEFAULT.mix, list(MIXES), "Mixes source with target examples where"
                      " they enter what trains, by the source-only or the method's own answers on"
                      " the target.", **values)  # fmt: skip
    text("unfreeze", phase.unfreeze, "none, or last:N blocks that train too.", **values)
    whole("epochs", phase.epochs, "Epochs over the larger domain.", **values)
    number("lr", phase.learning_rate, "Peak learning rate.", **values)
    whole("batch_size", DEFAULT.batch_size, "Examples per step, half of each domain.", **values)
    whole("bottleneck", DEFAULT.head.hidden[0], "Units whose output is aligned.", **values)
    number("val_fraction", DEFAULT.data.val_fraction, "Share of the source held out.", **values)
    flags.DEFINE_enum("bad_files", DEFAULT.data.bad_files, list(BAD_FILES),
                      "What to do about unreadable files.", **values)  # fmt: skip
    whole("seed", DEFAULT.seed, "Root of everything random.", **values)
    flags.DEFINE_enum("precision", DEFAULT.precision, list(PRECISIONS), "Of the features.",
                      **values)  # fmt: skip
    text("cache", DEFAULT.cache, "Frozen features: auto, off, or a folder for them.", **values)
    text("export", DEFAULT.export, "auto (in the run folder), none, or a folder.", **values)
    run_flags.define(FLAGS)


_define()


def sources(text: str) -> tuple[str, ...]:
    """What ``--source`` names: one source, or several with commas; a path may have commas itself.

    Raises:
      ArgumentError: one is named twice, or not at all.
    """
    if "," not in text or Path(text).exists():
        return (text,)
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ArgumentError(
            f"source={text!r}, expected each source once", where="--source",
            next_action="for example --source=PHOTOS,SKETCHES",
        )  # fmt: skip
    return names


def to_spec(values: flags.FlagValues) -> TransferSpec:
    """The specification that the parsed flags describe."""
    given = {name: values[name].value for name in values}
    first, *more = sources(given["source"])
    phase = dataclasses.replace(
        DEFAULT.phases[0],
        epochs=given["epochs"],
        learning_rate=given["lr"],
        unfreeze=given["unfreeze"],
    )
    return dataclasses.replace(
        DEFAULT,
        data=dataclasses.replace(
            DEFAULT.data,
            source=first,
            val_fraction=given["val_fraction"],
            bad_files=given["bad_files"],
        ),
        backbone=BackboneSpec(
            name=given["backbone"], weights=given["weights"], image_size=given["image_size"]
        ),
        head=dataclasses.replace(DEFAULT.head, hidden=(given["bottleneck"],)),
        phases=(phase,),
        adapt=AdaptSpec(
            target=given["target"],
            method=given["method"],
            weight=given["term_weight"],
            shots=given["shots"],
            sources=tuple(more),
        ),
        **{
            name: given[name]
            for name in ("batch_size", "mix", "seed", "precision", "cache", "export")
        },
    )


def run(values: flags.FlagValues) -> None:
    dry = values["dry_run"].value
    run_flags.required(values, "source", "target", "backbone", *([] if dry else ["workdir"]))
    spec = to_spec(values)
    gate = run_flags.parsed_gate(values)
    run_flags.check_early(spec, values, flag="source")
    for name in spec.adapt.sources:
        run_flags.check_source(name, flag="source")
    run_flags.check_source(spec.adapt.target, flag="target")
    import_tensorflow()
    from tltf import pipeline

    if dry:
        print(*pipeline.plan_only(spec, say=run_flags.say).choices, sep="\n")
        return
    done = pipeline.transfer(
        spec,
        workdir=values["workdir"].value,
        fresh=values["fresh"].value,
        gate=gate,
        require_exact=values["require_exact"].value,
        say=run_flags.say,
        command=sys.argv,
    )
    if not done.already_complete:
        storage.write_text(done.path / "flagfile.txt", values.flags_into_string())
    simple = done.report["baselines"].get("source_only")
    if simple:
        print(run_flags.metric_line("source-only accuracy", simple["metrics"]["accuracy"]))
    print(*run_flags.summary(done, gate), sep="\n")


PROGRAM = Program(
    name="tltf adapt",
    about="""carries a classifier over from labelled source data to other target data.

  tltf adapt --source=PHOTOS --target=DRAWINGS --backbone=MobileNetV2 --workdir=RUN

Prints how far the domains are apart, trains on the source alone beside the method, and
chooses without target labels.""",
    flag_values=FLAGS,
    run=run,
    refused=NOT_OF_ADAPTATION,
)
