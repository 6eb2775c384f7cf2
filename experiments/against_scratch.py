"""Pretrain on a source, transfer to a target, and compare with the same network from scratch."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from experiments import digit_folders
from tltf import rundir, storage
from tltf.backbones import catalog
from tltf.cli import run_flags, spec_flags
from tltf.cli.quiet import import_tensorflow
from tltf.data.manifest import Manifest
from tltf.errors import ArgumentError
from tltf.evaluation import verdict
from tltf.spec import BackboneSpec, Phase, TransferSpec

if TYPE_CHECKING:
    from tltf import pipeline


def define(values: flags.FlagValues, source: TransferSpec) -> None:
    """The flags of the source; those of the target are the ones of ``tltf train``."""
    flags.DEFINE_string("source", source.data.source, "Data that the network learns first.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_integer("source_epochs", source.phases[0].epochs, "Epochs on the source.",
                         lower_bound=0, flag_values=values)  # fmt: skip
    flags.DEFINE_string("digits_npz", None, "File of MNIST and USPS digits to take as source and"
                        " target.", flag_values=values)  # fmt: skip
    flags.DEFINE_alias("target", "data", flag_values=values)


def run(values: flags.FlagValues, *, source: TransferSpec, target: TransferSpec) -> None:
    """Three runs below ``--workdir``, each resumable, then the verdict on the target's test split.

    Args:
      values: the parsed flags.
      source: default of the first run; data, backbone, head and the like follow the flags.
      target: default of the second, whose flags ``values`` holds.
    """
    target = spec_flags.to_spec(values, target)
    source = _source(values, source, target)
    gate = run_flags.parsed_gate(values)
    folder = _checked(values, source, target)
    import_tensorflow()
    if values["digits_npz"].value:
        mnist, usps = digit_folders.write(Path(values["digits_npz"].value), folder)
        source, target = _with_data(source, mnist), _with_data(target, usps)
    from tltf import pipeline

    if values["dry_run"].value:
        print(*pipeline.plan_only(source, say=run_flags.say).choices, sep="\n")
        return

    def done(name: str, spec: TransferSpec, **options: object) -> pipeline.Run:
        run_flags.say(f"{name}: {spec.data.source}")
        return pipeline.transfer(
            spec,
            workdir=folder / name,
            fresh=values["fresh"].value,
            save_every=values["save_every"].value,
            say=run_flags.say,
            command=sys.argv,
            **options,  # type: ignore[arg-type]
        )

    first = done("source", source)
    ours = done("transfer", _on(target, first.path, "imagenet"), gate=gate)
    theirs = done("scratch", _from_scratch(target, first.path))
    found = verdict.compare(_correct(ours), _correct(theirs))
    storage.write_json(folder / "verdict.json", found.as_dict())
    for name, one in (("source", first), ("transfer", ours), ("scratch", theirs)):
        print(f"{name:<9}", run_flags.metric_line("accuracy", one.report["metrics"]["accuracy"]))
    print(f"verdict: {found.sentence}")
    print(f"report: {ours.path / 'report' / 'report.html'}")


def _source(values: flags.FlagValues, source: TransferSpec, target: TransferSpec) -> TransferSpec:
    """What is left unsaid for the source is as for the target: network, seed, precision."""
    phase = dataclasses.replace(source.phases[0], epochs=values["source_epochs"].value)
    return dataclasses.replace(
        target,
        data=dataclasses.replace(source.data, source=values["source"].value),
        phases=(dataclasses.replace(phase, batch_norm="adapt"),),
        class_weight="none",
        baselines=False,
        export="none",
    )


def _with_data(spec: TransferSpec, folder: Path) -> TransferSpec:
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, source=str(folder)))


def _on(target: TransferSpec, source: Path, weights: str) -> TransferSpec:
    network = BackboneSpec(
        name=f"file:{source}", weights=weights, image_size=target.backbone.image_size
    )
    return dataclasses.replace(target, backbone=network)


def _from_scratch(target: TransferSpec, source: Path) -> TransferSpec:
    """The same architecture and as many epochs, all of it trainable, from random weights."""
    last = target.phases[-1]
    phase = Phase(
        "scratch",
        sum(phase.epochs or 0 for phase in target.phases),
        last.learning_rate,
        unfreeze="all",
        batch_norm="adapt",
        **{name: getattr(last, name) for name in spec_flags.ALL_PHASES if name != "batch_norm"},
    )
    return dataclasses.replace(
        _on(target, source, "none"), phases=(phase,), baselines=False, export="none"
    )


def _checked(values: flags.FlagValues, source: TransferSpec, target: TransferSpec) -> Path:
    """Everything that can be wrong with the flags, before TensorFlow is imported."""
    named = [name for name in ("source", "data") if values[name].present]
    if values["digits_npz"].value:
        if named:
            raise ArgumentError(
                f"--digits_npz with --{named[0]}: the file is both source and target",
                where="flags",
                next_action="leave one of them out",
            )
        digit_folders.read(Path(values["digits_npz"].value))
    else:
        for data in (source.data, target.data):
            run_flags.check_source(data.source)
    choice = catalog.lookup(target.backbone.name)
    if target.backbone.weights == "imagenet":
        catalog.check_published(choice)
    if any(phase.epochs is None for phase in target.phases):
        raise ArgumentError("the epochs of every phase are compared and must be given")
    if not values["dry_run"].value:
        run_flags.required(values, "workdir")
    folder = Path(values["workdir"].value or ".")
    rundir.check_writable(folder, flag="--workdir")
    return folder.resolve()


def _correct(done: pipeline.Run) -> np.ndarray:
    """Whether each record of the test split was right, in the manifest's order."""
    import tltf

    model = tltf.load(done.path / "weights")
    lines = rundir.RunDir(done.path).manifest.read_text("utf-8").splitlines()
    data = model.batches(Manifest.from_json_lines(lines).split("test"), batch_size=256)
    return model.logits(data).argmax(axis=1) == data.targets().argmax(axis=1)
