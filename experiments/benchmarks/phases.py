"""G1, G2a, G2b, G3, G5: what training costs, against a single pass, the guide, and itself."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tltf
from experiments.benchmarks import guide, start
from experiments.benchmarks.guide import Course
from experiments.benchmarks.photos import Photos
from experiments.benchmarks.protocol import Row, bootstrapped, interleaved, ratios, seconds
from tltf.models.initial import seeded_initializers
from tltf.spec import BackboneSpec, DataSpec, HeadSpec, Phase, TransferSpec
from tltf.training import boundary, convex, features, freezing
from tltf.training.caching import Cache, PhaseCache
from tltf.training.fit import fit_phases
from tltf.training.phases import enter_phase

RATES = guide.RATES
HEAD_EPOCHS, TUNE_EPOCHS = guide.EPOCHS
UNFREEZE = {"MobileNetV2": "last:2", "ResNet50": "last:1", "EfficientNetB0": "last:2"}


def model_of(name: str, weights: str, photos: Photos, *, dropout: float = 0.2) -> keras.Model:
    """A classifier on the backbone at the photos' size."""
    with seeded_initializers(0):
        body = tltf.backbone(name, weights, photos.image_size)
    return tltf.classifier(body, tltf.head(len(photos.manifest.classes), dropout=dropout))


def one_pass(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G1: all head epochs against one decode and backbone pass and a convex solve."""
    train, validation = photos.batches("train"), photos.batches("val")

    def ours() -> float:
        model = model_of(name, weights, photos)
        cache = fresh_cache(work / "g1")
        plan = [Phase("head", HEAD_EPOCHS, RATES[0], unfreeze="none")]
        return seconds(
            lambda: fit_phases(
                model, plan, train, validation=validation, cache=cache, progress=False
            )
        )

    def bare() -> float:
        model = model_of(name, weights, photos)
        freezing.set_trainable(model, "none")
        compute = features.compiled(boundary.split(model).prefix)

        def work() -> None:
            parts = [convex.collected(d.eval_dataset(), lambda x: compute(x)[0])
                     for d in (train, validation)]  # fmt: skip
            convex.solve(*parts, task="single_label")

        return seconds(work)

    values = ratios(*interleaved(ours, bare, pairs=pairs))
    what = f"{name} {HEAD_EPOCHS} head epochs / one pass and solve"
    return [Row(goal="G1", what=what, values=values, target="<= 1.10", note=_size(photos))]


def against_guide(
    photos: Photos, *, name: str, weights: str, pairs: int, work: Path, augment: bool
) -> list[Row]:
    """G2a and G2b: both phases of the guide's recipe against ours."""
    unfreeze = UNFREEZE[name]
    unfrozen = _unfrozen(name, weights, photos)
    sides: dict[str, list[Course]] = {"guide": [], "tltf": []}

    def theirs() -> float:
        seed = len(sides["guide"])
        sides["guide"].append(
            guide.trained(
                photos.split_by(seed).folders,
                image_size=photos.image_size,
                backbone=name,
                weights=None if weights == "none" else weights,
                epochs=guide.EPOCHS,
                rates=RATES,
                unfrozen=unfrozen,
                augment=augment,
                seed=seed,
            )
        )
        return sides["guide"][-1].seconds

    def ours() -> float:
        views = {"augment": "flip,rotation=36", "views": 4} if augment else {}
        again = photos.split_by(len(sides["tltf"]))
        sides["tltf"].append(_course(again, name, weights, unfreeze, work, views))
        return sides["tltf"][-1].seconds

    values = ratios(*interleaved(theirs, ours, pairs=pairs))
    goal = "G2b" if augment else "G2a"
    least = 4 if augment else {"MobileNetV2": 5, "ResNet50": 8}.get(name, 4)
    details = {
        "courses": {k: [c.points for c in v] for k, v in sides.items()},
        "seconds": {k: [c.seconds for c in v] for k, v in sides.items()},
        "right": {k: [c.right for c in v] for k, v in sides.items()},
    }
    what = f"{name} guide / tltf, {HEAD_EPOCHS}+{TUNE_EPOCHS} epochs, {unfreeze}"
    rows = [Row(goal=goal, what=what, values=values, target=f">= {least}", note=_size(photos),
                details=details)]  # fmt: skip
    return rows if weights == "none" else [*rows, _compared(goal, name, sides)]


def _unfrozen(name: str, weights: str, photos: Photos) -> list[str]:
    """The layers that our tune phase trains, for the other side."""
    blocks = freezing.model_blocks(model_of(name, weights, photos))
    return [layer.name for layer in freezing.select(blocks, UNFREEZE[name])]


def _compared(goal: str, name: str, sides: dict[str, list[Course]]) -> Row:
    """Test accuracy of ours less the guide's, paired by image; every seed is another split."""
    pairs = list(zip(sides["tltf"], sides["guide"], strict=True))
    found = bootstrapped([{i: int(a.right[i]) - int(b.right[i]) for i in a.right}
                          for a, b in pairs])  # fmt: skip
    means = {k: np.mean([np.mean(list(c.right.values())) for c in v]) for k, v in sides.items()}
    return Row(
        goal=goal,
        what=f"{name} test accuracy, tltf - guide, points, lower 95 % bound",
        values=(100 * found.low,),
        target="> -1",
        note=f"difference {100 * found.difference:+.2f} to at most {100 * found.high:+.2f}, "
        f"{means['tltf']:.4f} against {means['guide']:.4f}, {len(pairs)} seeds, "
        f"{found.images} images",
    )


def _course(
    photos: Photos, name: str, weights: str, unfreeze: str, work: Path, views: dict[str, Any]
) -> Course:
    """Ours, from building the model to the last epoch, the store being made on the way.

    The optimizer's course is the guide's: constant rates, the last epoch's weights.
    """
    course, started = Course(), time.perf_counter()
    model = model_of(name, weights, photos)
    plan = [
        Phase("head", HEAD_EPOCHS, RATES[0], unfreeze="none", schedule="constant", warmup=0.0),
        Phase("tune", TUNE_EPOCHS, RATES[1], unfreeze=unfreeze, schedule="constant", warmup=0.0),
    ]

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            course.points.append((time.perf_counter() - started, logs["val_accuracy"]))

    train, validation = photos.batches("train", **views), photos.batches("val")
    fit = fit_phases(model, plan, train, validation=validation, cache=fresh_cache(work / "g2"),
                     callbacks=[Note()], progress=False, restore_best=False)  # fmt: skip
    course.seconds = time.perf_counter() - started
    test = photos.batches("test")
    right = fit.stored.logits(test).argmax(axis=1) == test.targets().argmax(axis=1)
    for record, answered in zip(photos.manifest.split("test"), right, strict=True):
        course.right[f"{record.label}/{Path(str(record.path)).name}"] = bool(answered)
    return course


def whole_command(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G2a as a person types it: processes of their own, ours with audit, report and export."""
    data = str(photos.source)
    theirs = [sys.executable, "-m", "experiments.benchmarks.guide", str(photos.folders),
              str(photos.image_size), name, weights,
              ",".join(_unfrozen(name, weights, photos))]  # fmt: skip

    def ours() -> float:
        for folder in ("whole-run", "whole-cache"):
            shutil.rmtree(work / folder, ignore_errors=True)
        command = [
            *start.PROGRAM, "train", f"--data={data}",
            f"--backbone={name}", f"--weights={weights}", f"--image_size={photos.image_size}",
            f"--head_epochs={HEAD_EPOCHS}", f"--tune_epochs={TUNE_EPOCHS}", "--augment=none",
            f"--unfreeze={UNFREEZE[name]}", f"--cache={work / 'whole-cache'}",
            f"--workdir={work / 'whole-run'}",
        ]  # fmt: skip
        return _command(command)

    values = ratios(*interleaved(lambda: _command(theirs), ours, pairs=pairs))
    what = f"{name} whole command, guide's script / tltf train"
    return [Row(goal="G2a", what=what, values=values, target=">= 2.5", note=_size(photos))]


def _command(command: list[str]) -> float:
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def step_gain(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G3: the gain of an epoch of the second phase, over the gain of its bare steps."""
    phase = Phase("tune", 1, RATES[1], unfreeze=UNFREEZE[name])
    data = photos.batches("train", batch_size=16)
    model = model_of(name, weights, photos)
    stored = PhaseCache(fresh_cache(work / "g3"), model, plan=[phase], train=data,
                        validation=photos.batches("val"), progress=False)  # fmt: skip
    freezing.set_trainable(model, phase.unfreeze)
    cached = stored.phase(phase)
    whole = _stepper(model, phase, data)
    tail = cached.boundary.tail
    tail.compile(model.optimizer.__class__(RATES[1]), loss=model.loss, metrics=["accuracy"])
    part = _stepper(tail, None, cached.data.train)
    steps = data.steps_per_epoch - 1  # the last batch is smaller: another trace
    epoch = interleaved(lambda: whole(steps, False), lambda: part(steps, False), pairs=pairs)
    bare = interleaved(lambda: whole(steps, True), lambda: part(steps, True), pairs=pairs)
    ideal = float(np.median(ratios(*bare)))
    values = tuple(gain / ideal for gain in ratios(*epoch))
    what = f"{name} {phase.unfreeze} gain of a cached epoch / ideal gain"
    note = f"ideal {ideal:.2f} times, measured {np.median(ratios(*epoch)):.2f}, {_size(photos)}"
    return [Row(goal="G3", what=what, values=values, target=">= 0.80", note=note)]


def _stepper(model: keras.Model, phase: Phase | None, data: Any) -> Callable[[int, bool], float]:
    """Seconds of some training steps, on the data as it comes or on one batch again and again."""
    import tensorflow as tf

    if phase is not None:
        enter_phase(model, phase, steps_per_epoch=data.steps_per_epoch)
    model.make_train_function()
    first = next(iter(data.train_dataset(0)))
    again = tf.data.Dataset.from_tensors(first).repeat()
    model.train_function(iter(again))

    def run(steps: int, bare: bool) -> float:
        iterator = iter(again if bare else data.train_dataset(0))
        return seconds(lambda: [model.train_function(iterator) for _ in range(steps)])

    return run


def second_run(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> Iterator[Row]:
    """G5: T(first run) / T(second run with another head), from the manifest to the model."""
    spec = TransferSpec(
        effort="plan",
        data=DataSpec(source=str(photos.source)),
        backbone=BackboneSpec(name=name, weights=weights),
        export="none",
    )
    other = dataclasses.replace(spec, head=HeadSpec(hidden=(64,), dropout=0.5))
    head = (Phase("head", HEAD_EPOCHS, RATES[0], unfreeze="none"),)
    for what, plan, repeats in (("head", head, pairs), ("head and tune", spec.phases, 1)):
        values = []
        for i in range(repeats):
            cache = work / f"g5-cache-{i}"
            shutil.rmtree(cache, ignore_errors=True)
            both = [
                _training_seconds(dataclasses.replace(s, cache=str(cache), phases=plan),
                                  work / f"g5-{i}-{k}")
                for k, s in enumerate((spec, other))
            ]  # fmt: skip
            values.append(both[0] / both[1])
        target = ">= 10" if what == "head" else None
        yield Row(goal="G5", what=f"{name} first run / second run, {what}",
                  values=tuple(values), target=target, note=_size(photos))  # fmt: skip


def _training_seconds(spec: TransferSpec, folder: Path) -> float:
    from tltf import rundir
    from tltf.interval import save_interval
    from tltf.stages.data import run_data
    from tltf.stages.fitting import run_training

    with rundir.opened(folder) as opened:
        opened.clear()
        manifest = run_data(spec, opened, say=_quiet)
        return seconds(
            lambda: run_training(
                spec, manifest, opened, interval=save_interval("60s"), say=_quiet, progress=False
            )
        )


def _quiet(sentence: str) -> None:
    del sentence


def fresh_cache(folder: Path) -> Cache:
    """An empty store that is used whatever it gains."""
    shutil.rmtree(folder, ignore_errors=True)
    return Cache(folder=folder, always=True, say=_quiet)


def _size(photos: Photos) -> str:
    return f"{len(photos.manifest.records)} photos at {photos.image_size} px"
