"""G4, G6, G7, G8: extraction, settings and the input pipeline, against the bare parts of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from experiments.benchmarks.alone import together
from experiments.benchmarks.phases import model_of
from experiments.benchmarks.photos import Photos
from experiments.benchmarks.protocol import Row, interleaved, ratios, seconds
from tltf.data.decoding import decode, load_image
from tltf.training import boundary, environment, features, freezing, probing
from tltf.training.featurestore import FeatureStore

BATCH, PASSES = 32, 5


def extraction(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G4: decode, network, convert, hash and write, against the network on ready batches."""
    data = photos.batches("train", batch_size=BATCH)
    model = model_of(name, weights, photos)
    freezing.set_trainable(model, "none")
    cut = boundary.split(model)
    compute = features.compiled(cut.prefix)
    ready = [x for x, _, _ in data.eval_dataset()]
    for x in ready:
        compute(x)

    def ours() -> float:
        shutil.rmtree(work / "g4", ignore_errors=True)
        store = FeatureStore(work / "g4", "0" * 64, shapes=cut.shapes)
        return seconds(lambda: features.extract(store, compute, data, view=None))

    def bare() -> float:
        return seconds(lambda: [np.asarray(t) for x in ready for t in compute(x)])

    values = ratios(*interleaved(ours, bare, pairs=pairs))
    rate = sum(len(x) for x in ready) / bare()
    note = f"{len(photos.manifest.records)} photos at {photos.image_size} px, bare {rate:.0f}/s"
    return [Row(goal="G4", what=f"{name} extraction / bare network", values=values,
                target="<= 1.05", note=note)]  # fmt: skip


def settings(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G6 and G7: what --precision=auto takes, against both precisions forced.

    XLA is off on CPU by rule and not tried here. The probe, where there is one, takes
    2 (1 + 3) batches, and is counted as those.
    """
    del work
    images = tf.stack([load_image(str(r.path), photos.image_size)
                       for r in photos.manifest.split("train")[:BATCH]])  # fmt: skip
    runs: dict[str, Callable[[], float]] = {}
    pooled = {}
    for precision in ("float32", "bfloat16"):
        with environment.precision_policy(precision):
            model = model_of(name, weights, photos)
        freezing.set_trainable(model, "none")
        compute = features.compiled(boundary.split(model).prefix)
        pooled[precision] = np.asarray(compute(images)[0])
        runs[precision] = lambda compute=compute: seconds(lambda: np.asarray(compute(images)[0]))
    times = dict(zip(runs, interleaved(*runs.values(), pairs=pairs), strict=True))
    native = probing.native_bfloat16()
    halves = ratios(times["float32"], times["bfloat16"])
    cosine = probing.least_cosine(*pooled.values())
    fits = float(np.median(halves)) >= probing.FASTER and cosine >= probing.ALIKE
    chosen = "bfloat16" if native and fits else "float32"
    batches = 1000 / BATCH
    probe = 4 * sum(float(np.median(t)) for t in times.values()) if native else 0.0
    best = [min(a, b) for a, b in zip(*times.values(), strict=True)]
    default = tuple((batches * a + probe) / (batches * b)
                    for a, b in zip(times[chosen], best, strict=True))  # fmt: skip
    note = f"auto is {chosen}; bfloat16 {'native' if native else 'not native'}, cosine {cosine:.5f}"
    return [
        Row(goal="G6", what=f"{name} defaults with their probe / best, 1,000 images",
            values=default, target="<= 1.05", note=note),
        Row(goal="G7", what=f"{name} fp32 / auto",
            values=ratios(times["float32"], times[chosen]), target=">= 1.75", note=note),
        Row(goal="G7", what=f"{name} fp32 / bf16 forced", values=halves),
    ]  # fmt: skip


def input_pipeline(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G8: images per second against (cores x single thread); Keras' own reader beside it.

    ImageDataGenerator has no public name in Keras 3, so it is not measured.
    """
    del name, weights, work
    once = photos.batches("train", batch_size=BATCH)
    # Several times over, so that the start of a pipeline is a small part of it.
    data = once.with_records(once.records * PASSES)
    paths = [str(record.path) for record in data.records]
    cores, size = os.cpu_count() or 1, photos.image_size

    def single(step: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], float]:
        # One thread, without any Python between two images.
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        one = tf.data.Dataset.from_tensor_slices(paths).map(step).with_options(options)
        return lambda: seconds(lambda: one.reduce(0, lambda n, _: n + 1).numpy())

    def parallel(step: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], float]:
        many = tf.data.Dataset.from_tensor_slices(paths)
        many = many.map(step, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
        return lambda: seconds(lambda: many.reduce(0, lambda n, _: n + 1).numpy())

    def read(path: tf.Tensor) -> tf.Tensor:
        return decode(tf.io.read_file(path))

    def ours() -> float:
        batches = data.eval_dataset()
        return seconds(lambda: [None for _ in batches])

    rows = []
    for what, side, step, target in (
        ("decode only", parallel(read), read, ">= 0.95"),
        ("decode, antialiased resize", ours, lambda path: load_image(path, size), ">= 0.90"),
    ):
        many, one = interleaved(side, single(step), pairs=pairs)
        values = tuple(b / (cores * a) for a, b in zip(many, one, strict=True))
        note = f"{len(paths) / np.median(many):.0f} images/s"
        rows.append(Row(goal="G8", what=f"{what} / ({cores} cores x one thread)", values=values,
                        target=target, note=note))  # fmt: skip
    alone = [together(paths[: BATCH * 8], size=size, processes=n) for n in (cores, 1) * pairs]
    ceiling = tuple(a / (cores * b) for a, b in zip(alone[::2], alone[1::2], strict=True))
    what = f"ceiling: {cores} processes of one thread / ({cores} x one such process)"
    rows.append(Row(goal="G8", what=what, values=ceiling))
    theirs = ratios(*reversed(interleaved(ours, lambda: _keras_folder(photos), pairs=pairs)))
    what = "seconds of image_dataset_from_directory (no antialias) / tltf"
    rows.append(Row(goal="G8", what=what, values=theirs))
    return rows


def _keras_folder(photos: Photos) -> float:
    found = keras.utils.image_dataset_from_directory(
        photos.folders / "train", image_size=(photos.image_size,) * 2, verbose=False
    )
    return seconds(lambda: [None for _ in range(PASSES) for _ in found])
