"""The other side of G2: the recipe of the Keras guide "Transfer learning & fine-tuning".

Written from its description (https://keras.io/guides/transfer_learning/): read the folder by
``image_dataset_from_directory``, cache and prefetch, a frozen base called with
``training=False``, pooling, Dropout 0.2 and a Dense layer; train that, then unfreeze, compile
with a low rate and go on. It keeps what it has: its cache of decoded pixels, its prefetching,
and augmentation as layers in front of the base. The layers that the second phase unfreezes are
the ones that ours unfreezes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from experiments.benchmarks.photos import Photos

MODULES = {
    "MobileNetV2": keras.applications.mobilenet_v2,
    "ResNet50": keras.applications.resnet50,
    "EfficientNetB0": keras.applications.efficientnet,
}


@dataclass
class Course:
    """How one side went: total seconds, validation accuracy by time, test accuracy."""

    seconds: float = 0.0
    points: list[tuple[float, float]] = field(default_factory=list)
    test_accuracy: float = 0.0


def trained(
    photos: Photos,
    *,
    backbone: str,
    weights: str | None,
    epochs: tuple[int, int],
    rates: tuple[float, float],
    unfrozen: Sequence[str],
    augment: bool = False,
    batch_size: int = 32,
) -> Course:
    """Both phases on the train folder; wall time from reading the folder to the last epoch."""
    keras.utils.set_random_seed(0)
    course, started = Course(), time.perf_counter()
    train, validation = (_dataset(photos, split, batch_size) for split in ("train", "val"))
    base = getattr(keras.applications, backbone)(
        include_top=False, weights=weights, input_shape=(photos.image_size,) * 2 + (3,)
    )
    base.trainable = False
    model = _model(base, backbone, photos, augment)

    def note(epoch: int, logs: dict[str, float]) -> None:
        course.points.append((time.perf_counter() - started, logs["val_accuracy"]))

    told = [keras.callbacks.LambdaCallback(on_epoch_end=note)]
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
        model.fit(train, validation_data=validation, epochs=count, callbacks=told, verbose=0)
    course.seconds = time.perf_counter() - started
    test = _dataset(photos, "test", batch_size)
    course.test_accuracy = float(model.evaluate(test, verbose=0, return_dict=True)["accuracy"])
    return course


def _model(base: keras.Model, backbone: str, photos: Photos, augment: bool) -> keras.Model:
    x = inputs = keras.Input(base.input_shape[1:])
    if augment:
        x = keras.layers.RandomFlip("horizontal", seed=0)(x)
        x = keras.layers.RandomRotation(0.1, seed=0)(x)
    x = MODULES[backbone].preprocess_input(x)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    x = keras.layers.Dropout(0.2, seed=0)(x)
    return keras.Model(inputs, keras.layers.Dense(len(photos.manifest.classes))(x))


def _dataset(photos: Photos, split: str, batch_size: int) -> tf.data.Dataset:
    return (
        keras.utils.image_dataset_from_directory(
            photos.folders / split,
            label_mode="categorical",
            image_size=(photos.image_size,) * 2,
            batch_size=batch_size,
            shuffle=split == "train",
            seed=0,
            verbose=False,
        )
        .cache()
        .prefetch(tf.data.AUTOTUNE)
    )
