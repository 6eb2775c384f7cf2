"""Every pipeline of ours reads ahead by fixed numbers, and leaves nothing to tf.data's tuner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tltf.data.batches import Batches
from tltf.data.readahead import READERS, read_ahead
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.transfer.domains import Domain, DomainEpochs


def image_batches(photos: Path) -> Batches:
    manifest = scan(load(str(photos)), max_image_pixels=10**6)
    return Batches(manifest.records, classes=manifest.classes, task=manifest.task,
                   image_size=8, batch_size=8, augment="light", mix="cutmix")  # fmt: skip


def domain_epochs(_: Path) -> DomainEpochs:
    x, y = np.zeros((8, 3), np.float32), np.eye(2, dtype=np.float32)[[0, 1] * 4]
    return DomainEpochs(Domain((x,), y), Domain((x,)), batch_size=4)


PIPELINES: dict[str, Callable[[Path], tf.data.Dataset]] = {
    "train": lambda photos: image_batches(photos).train_dataset(0, epochs=2),
    "eval": lambda photos: image_batches(photos).eval_dataset(),
    "view": lambda photos: image_batches(photos).view_dataset(0),
    "domains": lambda photos: domain_epochs(photos).train_dataset(0),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_no_pipeline_is_tuned(photos: Path, name: str) -> None:
    assert PIPELINES[name](photos).options().autotune.enabled is False


def test_the_same_elements_in_the_same_order() -> None:
    numbers = tf.data.Dataset.range(100).map(lambda i: 2 * i, READERS, deterministic=True)
    assert [int(i) for i in read_ahead(numbers)] == list(range(0, 200, 2))
