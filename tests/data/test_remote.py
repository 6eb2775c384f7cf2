"""A tf.data service with two workers on this machine gives the batches that are made here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pictures import write_digit_folder

from tltf.data import remote
from tltf.data.batches import Batches
from tltf.data.scan import scan
from tltf.data.sources import load
from tltf.errors import ArgumentError

service = tf.data.experimental.service


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    folder = write_digit_folder(tmp_path_factory.mktemp("digits") / "data", (0, 1, 2), 15)
    manifest = scan(load(str(folder)), max_image_pixels=10**6)
    return Batches(manifest.records, classes=manifest.classes, task=manifest.task, image_size=12,
                   batch_size=8, augment="medium", seed=3)  # fmt: skip


@pytest.fixture
def cluster() -> tuple[Any, list[Any]]:
    dispatcher = service.DispatchServer(service.DispatcherConfig(worker_timeout_ms=2000))
    address = dispatcher.target.split("://")[1]
    config = {"dispatcher_address": address, "heartbeat_interval_ms": 200}
    workers = [service.WorkerServer(service.WorkerConfig(**config)) for _ in range(2)]
    return dispatcher, workers


def check_equal(one: tf.data.Dataset, two: tf.data.Dataset) -> int:
    pairs = list(zip(one, two, strict=True))
    for a, b in pairs:
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    return len(pairs)


def test_the_same_batches_in_the_same_order(batches: Batches, cluster: Any) -> None:
    said: list[str] = []
    far = remote.RemoteBatches(batches, cluster[0].target, say=said.append)
    assert far.steps_per_epoch == 6
    assert check_equal(batches.train_dataset(1, epochs=2), far.train_dataset(1, epochs=2)) == 12
    assert check_equal(batches.train_dataset(0, 4), far.train_dataset(0, 4)) == 2
    assert said == []


def test_a_worker_that_dies_costs_nothing_but_time(batches: Batches, cluster: Any) -> None:
    dispatcher, workers = cluster
    far = remote.RemoteBatches(batches, dispatcher.target)
    found = iter(far.train_dataset(0, epochs=20))
    expected = iter(batches.train_dataset(0, epochs=20))
    for step in range(120):
        if step == 5:
            workers[0]._stop()
        for x, y in zip(next(found), next(expected), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=str(step))
    assert next(found, None) is None


class _Far:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def test_what_does_not_come_is_made_here_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITING_ROOM", 3)
    # 2 is lost, 4 comes after it was made here, 9 is lost at the end
    arriving = iter([(i, f"far {i}") for i in (1, 0, 3, 5, 6, 7, 4, 8)])
    far = _Far()
    found = list(remote._in_order(range(10), arriving, lambda i: f"here {i}", far))
    assert [text.split()[1] for text in found] == [str(i) for i in range(10)]
    assert [i for i, text in enumerate(found) if text.startswith("here")] == [2, 4, 9]
    assert "batches [2, 4, 9]" in far.said[0]


def test_what_it_refuses(batches: Batches) -> None:
    with pytest.raises(ArgumentError, match="expected grpc://host:port"):
        remote.RemoteBatches(batches, "localhost:5000")
