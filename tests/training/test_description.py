"""Two networks that compute different things never share rows, however they were written."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tltf
from tltf.backbones.network import as_backbone
from tltf.data.reading import reading
from tltf.training import boundary, description, features, freezing
from tltf.training.description import UndescribableError, describe_graph

Body = Callable[[Any], Any]
SIDE = 4


def model(body: Body) -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, body(inputs))


def text(body: Body) -> str:
    return json.dumps(describe_graph(model(body)))


def shift(x: Any, by: Any) -> Any:
    return x - by


MEAN = {"value": 1.0}


class Shift(keras.layers.Layer):
    """A layer of somebody's own; what it subtracts is not in its configuration."""

    def __init__(self, by: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by = by

    def call(self, x: Any) -> Any:
        return x - self.by

    def get_config(self) -> dict[str, Any]:
        return super().get_config()

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class Wrapped(keras.layers.Layer):
    def __init__(self, inner: keras.layers.Layer) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x)

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def with_code(call: Callable[[Any, Any], Any]) -> Body:
    """A layer whose class has this for its call, under one name."""

    def body(x: Any) -> Any:
        made = type("Own", (keras.layers.Layer,), {"call": call, "__module__": __name__})
        return made()(x)

    return body


def closing_over(by: Any) -> Callable[[Any, Any], Any]:
    return lambda self, x: x - by


def global_mean(self: Any, x: Any) -> Any:
    return x - MEAN["value"]


PAIRS: dict[str, tuple[Body, Body]] = {
    "an array": (lambda x: x - np.ones(3, "float32"), lambda x: x - 2 * np.ones(3, "float32")),
    "a long array": (
        lambda x: ops.matmul(x, np.eye(3, 999, dtype="float32")),
        lambda x: ops.matmul(x, np.eye(3, 999, k=400, dtype="float32")),
    ),
    "a tensor": (lambda x: x - tf.ones(3), lambda x: x - tf.zeros(3)),
    "a variable": (
        lambda x: x - tf.Variable([1.0, 1.0, 1.0]).value(),
        lambda x: x - tf.Variable([2.0, 1.0, 1.0]).value(),
    ),
    "a NumPy scalar": (lambda x: x * np.float32(2), lambda x: x * np.float32(3)),
    "a slice": (lambda x: x[:, 0:2], lambda x: x[:, 1:3]),
    "an index": (lambda x: x[..., 0], lambda x: x[..., 1]),
    "a new axis": (lambda x: x[:, None], lambda x: x[:, :, None]),
    "the order of arguments": (lambda x: x - 2.0, lambda x: 2.0 - x),
    "an axis": (lambda x: ops.mean(x, axis=1), lambda x: ops.mean(x, axis=2)),
    "an attribute": (lambda x: Shift(1.0)(x), lambda x: Shift(2.0)(x)),
    "an array in an attribute": (
        lambda x: Shift(np.ones(3, "float32"))(x), lambda x: Shift(np.zeros(3, "float32"))(x),
    ),
    "code": (with_code(lambda self, x: x + 1), with_code(lambda self, x: x * 1)),
    "a constant in code": (with_code(lambda self, x: x + 1), with_code(lambda self, x: x + 2)),
    "a closure": (with_code(closing_over(1.0)), with_code(closing_over(2.0))),
    "a layer within": (lambda x: Wrapped(Shift(1.0))(x), lambda x: Wrapped(Shift(2.0))(x)),
    "a layer within Keras' own": (
        lambda x: keras.layers.TimeDistributed(Shift(1.0))(x),
        lambda x: keras.layers.TimeDistributed(Shift(2.0))(x),
    ),
    "a lambda": (
        lambda x: keras.layers.Lambda(lambda y: y + 1)(x),
        lambda x: keras.layers.Lambda(lambda y: y + 2)(x),
    ),
    "an activation": (
        lambda x: keras.layers.Activation(lambda y: y + 1)(x),
        lambda x: keras.layers.Activation(lambda y: y + 2)(x),
    ),
    "a part of a function": (
        lambda x: keras.layers.Lambda(functools.partial(shift, by=1))(x),
        lambda x: keras.layers.Lambda(functools.partial(shift, by=2))(x),
    ),
    "which output": (
        lambda x: [x + 1, x * 2][0] * 1,
        lambda x: [x + 1, x * 2][1] * 1,
    ),
    "the mean of a normalisation": (
        lambda x: keras.layers.Normalization(mean=np.ones(3), variance=np.ones(3))(x),
        lambda x: keras.layers.Normalization(mean=np.zeros(3), variance=np.ones(3))(x),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_what_computes_otherwise_is_described_otherwise(pair: str) -> None:
    one, other = PAIRS[pair]
    assert text(one) == text(one) != text(other)


def test_a_global_that_the_code_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = text(with_code(global_mean))
    monkeypatch.setitem(MEAN, "value", 2.0)
    assert text(with_code(global_mean)) != before


def test_a_function_that_the_code_calls_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: Any, x: Any) -> Any:
        return shift(x, 1.0)

    before = text(with_code(call))
    monkeypatch.setitem(globals(), "shift", lambda x, by: x + by)
    assert text(with_code(call)) != before


class Opaque:
    """Of which nobody knows what it is."""


UNKNOWN = types.ModuleType("somebodys_own")
UNKNOWN.shift = lambda x: x  # type: ignore[attr-defined]


def from_a_module(self: Any, x: Any) -> Any:
    return UNKNOWN.shift(x)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (lambda x: Held(Opaque())(x), "Opaque"),
        (lambda x: Held(iter([1]))(x), "iterator"),
        (with_code(from_a_module), "somebodys_own"),
    ],
    ids=["an object", "an iterator", "a module"],
)
def test_what_cannot_be_described_is_refused(body: Body, what: str) -> None:
    with pytest.raises(UndescribableError, match=what):
        text(body)


class Held(keras.layers.Layer):
    """Holds something and does nothing with it, as far as anybody can see."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def call(self, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def normalised(mean: float) -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(2, 3, kernel_initializer="ones", name="conv")(
        inputs - np.full(3, mean, "float32")
    )
    return keras.Model(inputs, x)


def store_of(net: keras.Model, folder: Path) -> features.FeatureStore:
    whole = tltf.classifier(as_backbone(net), tltf.head(2))
    freezing.set_trainable(whole, "none")
    cut = boundary.split(whole)
    assert cut is not None
    return features.opened_store(folder, cut, reading={"input_size": SIDE}, dtype="float32")


def test_another_mean_is_another_store(tmp_path: Path) -> None:
    one, other = (store_of(normalised(mean), tmp_path).folder for mean in (1.0, 2.0))
    assert one == store_of(normalised(1.0), tmp_path).folder != other


def test_no_store_is_made_for_what_cannot_be_described(tmp_path: Path) -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    net = keras.Model(inputs, keras.layers.Conv2D(2, 3)(Held(Opaque())(inputs)))
    with pytest.raises(UndescribableError, match="Held"):
        store_of(net, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_version_of_our_layers_is_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store_of(normalised(1.0), tmp_path).folder
    monkeypatch.setattr(features, "own_sources", lambda: "0" * 64)
    assert store_of(normalised(1.0), tmp_path).folder != before
    assert len(description.own_sources()) == 64


def test_what_reading_leans_on_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The palette of a BMP is found by another module than the one that decodes."""
    import inspect

    read = []
    real = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda x: read.append(x.__name__) or real(x))
    for size in (8, 0):
        reading(types.SimpleNamespace(image_size=size, input_size=8))  # type: ignore[arg-type]
    names = {name.rpartition(".")[2] for name in read}
    assert {"decoding", "graph_headers", "augmentation", "derived_seed"} <= names
    assert {"wordpiece", "characters", "encode"} <= names
