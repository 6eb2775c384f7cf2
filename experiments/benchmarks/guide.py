"""The other side of G2: the recipe of the Keras guide "Transfer learning & fine-tuning".

Written from its description (https://keras.io/guides/transfer_learning/): read the folder by
``image_dataset_from_directory``, cache and prefetch, a frozen base called with
``training=False``, pooling, Dropout 0.2 and a Dense layer; train that, then unfreeze, compile
with a low rate and go on. It keeps what it has: its cache of decoded pixels, its prefetching,
and augmentation as layers in front of the base. The layers that the second phase unfreezes are
the ones that ours unfreezes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

EPOCHS, RATES = (20, 10), (1e-3, 1e-4)
MODULES = {
    "MobileNetV2": keras.applications.mobilenet_v2,
    "ResNet50": keras.applications.resnet50,
    "EfficientNetB0": keras.applications.efficientnet,
}


@dataclass
class Course:
    """How one side went: total seconds, validation accuracy by time, test images got right, and
    their log-loss."""

    seconds: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)
    right: dict[str, bool] = field(default_factory=dict)
    nll: float = math.nan


def trained(
    folders: Path,
    *,
    image_size: int,
    backbone: str,
    weights: str | None,
    epochs: tuple[int, int],
    rates: tuple[float, float],
    unfrozen: Sequence[str],
    augment: bool = False,
    batch_size: int = 32,
    seed: int = 0,
) -> Course:
    """Both phases on ``folders/train``; wall time from reading the folder to the last epoch."""
    keras.utils.set_random_seed(seed)
    course, started = Course(), time.perf_counter()
    train, validation = (
        _dataset(folders / split, image_size, batch_size) for split in ("train", "val")
    )
    classes = sorted(path.name for path in (folders / "train").iterdir())
    base = getattr(keras.applications, backbone)(
        include_top=False, weights=weights, input_shape=(image_size, image_size, 3)
    )
    base.trainable = False
    model = _model(base, backbone, len(classes), augment)

    def note(epoch: int, logs: dict[str, float]) -> None:
        course.points.append((time.perf_counter() - started, logs["val_accuracy"]))

    noted = [keras.callbacks.LambdaCallback(on_epoch_end=note)]
    for phase, (count, rate) in enumerate(zip(epochs, rates, strict=True)):
        if phase:
            base.trainable = True
            for layer in base.layers:
                layer.trainable = layer.name in unfrozen
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(train, validation_data=validation, epochs=count, shuffle=False,
                  callbacks=noted, verbose=0)  # fmt: skip
    course.seconds = time.perf_counter() - started
    test = _dataset(folders / "test", image_size, batch_size)
    logits = model.predict(test, verbose=0).astype(np.float64)
    told = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = []
    for path, row in zip(test.file_paths, told, strict=True):
        label, name = Path(path).parts[-2:]
        course.right[f"{label}/{name}"] = label == classes[row.argmax()]
        losses.append(-row[classes.index(label)])
    course.nll = float(np.mean(losses))
    return course


def _model(base: keras.Model, backbone: str, classes: int, augment: bool) -> keras.Model:
    x = inputs = keras.Input(base.input_shape[1:])
    if augment:
        x = keras.layers.RandomFlip("horizontal", seed=0)(x)
        x = keras.layers.RandomRotation(0.1, seed=0)(x)
    x = MODULES[backbone].preprocess_input(x)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    x = keras.layers.Dropout(0.2, seed=0)(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def _dataset(folder: Path, image_size: int, batch_size: int) -> tf.data.Dataset:
    files = keras.utils.image_dataset_from_directory(
        folder,
        label_mode="categorical",
        image_size=(image_size,) * 2,
        batch_size=batch_size,
        shuffle=folder.name == "train",
        seed=0,
        verbose=False,
    )
    data = files.cache().prefetch(tf.data.AUTOTUNE)
    data.file_paths = files.file_paths
    return data


def main(folders: str, image_size: str, backbone: str, weights: str, unfrozen: str) -> None:
    """The whole script of somebody whose photos are split into folders."""
    trained(
        Path(folders),
        image_size=int(image_size),
        backbone=backbone,
        weights=None if weights == "none" else weights,
        epochs=EPOCHS,
        rates=RATES,
        unfrozen=unfrozen.split(","),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
