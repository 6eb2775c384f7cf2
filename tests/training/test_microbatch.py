"""A batch in parts: the step of the whole batch, found by trying where memory does not suffice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from commands import tltf as command
from pictures import write_digit_folder

import tltf
from tltf.checks import parsed_micro_batch
from tltf.errors import ArgumentError, OutOfMemoryError
from tltf.methods import AdaptSpec
from tltf.pipeline import check_parts
from tltf.spec import BackboneSpec, DataSpec, TransferSpec
from tltf.training import environment
from tltf.training.strategies import Distribution

PLAN = [
    tltf.Phase("head", 2, 1e-2, unfreeze="none"),
    tltf.Phase("tune", 2, 1e-3, unfreeze="last:1", optimizer="adamw", weight_decay=0.01,
               clipnorm=0.1),
]  # fmt: skip


def trained(
    model: keras.Model, *, plan: list[tltf.Phase] | None = None, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """History without times, and variables, after 21 weighted examples in batches of 8, 8 and 5."""
    x, y = tiny.arrays(21)
    weight = np.random.default_rng(0).uniform(0.5, 2, 21).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)
    found = tltf.fit_phases(model, plan or PLAN, data, validation=data, progress=False, **settings)
    rows = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in found.history]
    return rows, tiny.values(model)


@pytest.mark.parametrize(
    "at_once", [3, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
)
def test_parts_give_the_step_of_the_whole(at_once: int) -> None:
    whole, weights = trained(tiny.classifier())
    parts, others = trained(tiny.classifier(), micro_batch=at_once)
    for one, two in zip(whole, parts, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == pytest.approx(value, abs=1e-6), key
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, atol=2e-6, err_msg=name)


def test_parts_of_a_scaled_loss() -> None:
    """Half precision scales the loss; what is summed is scaled alike."""
    found = []
    for at_once in (0, 3):
        with environment.precision_policy("float16"):
            found.append(trained(tiny.classifier(), micro_batch=at_once))
    (whole, weights), (parts, others) = found
    for one, two in zip(whole, parts, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-3)
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, atol=2e-3, err_msg=name)


def test_variables_that_no_gradient_reaches_do_not_decay() -> None:
    """A gradient of zero is not the same: AdamW would shrink what nothing trains."""
    plan = [dataclasses.replace(PLAN[1], unfreeze="all")]

    class Idle(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.idle = self.add_weight(shape=(3,), initializer="ones", name="kernel")

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return x

    def model() -> keras.Model:
        inner = tiny.classifier()
        return keras.Model(inner.input, Idle(name="idle")(inner.output))

    found = trained(model(), plan=plan, micro_batch=3)[1]
    [idle] = [value for name, value in found.items() if name.startswith("idle")]
    np.testing.assert_array_equal(idle, np.ones(3))


@keras.saving.register_keras_serializable(package="tests")
class Hungry(keras.layers.Layer):
    """Wants 4 * 7 ** examples bytes: for a batch of 8 23 MB, for one of 16 more than there is."""

    most = 16.0

    def call(self, x: tf.Tensor) -> tf.Tensor:
        n = tf.cast(tf.shape(x)[0], tf.float64) * (self.most / 8)
        size = tf.minimum(tf.pow(tf.constant(7.0, tf.float64), n), 1e14)
        waste = tf.fill([tf.cast(size, tf.int64)], 0.0)
        return x + tf.stop_gradient(tf.reduce_max(waste))


def hungry() -> keras.Model:
    inner = tiny.classifier()
    return keras.Model(inner.input, Hungry(name="hungry")(inner.output))


ALL = [tltf.Phase("all", 2, 1e-3, unfreeze="all")]


def test_auto_finds_what_fits(tmp_path: Path) -> None:
    """And trains with the bits of that number, killed and resumed too."""
    told: list[tuple[str, int]] = []
    with pytest.raises(tf.errors.ResourceExhaustedError):
        fitted(hungry())
    history, weights = fitted(hungry(), micro_batch="auto", folder=tmp_path / "run",
                              parts_found=lambda *x: told.append(x))  # fmt: skip
    assert told == [("all", 4)]
    assert json.loads((tmp_path / "run/microbatch.json").read_text()) == {"all": 4}
    given, others = fitted(hungry(), micro_batch=4)
    assert history == given
    for name, value in weights.items():
        np.testing.assert_array_equal(others[name], value, err_msg=name)
    fitted(hungry(), micro_batch="auto", folder=tmp_path / "run",
           parts_found=lambda *x: told.append(x))  # fmt: skip
    assert told == [("all", 4)]


def fitted(model: keras.Model, **settings: Any) -> Any:
    x, y = tiny.arrays(21)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    found = tltf.fit_phases(model, ALL, data, progress=False, restore_best=False, **settings)
    rows = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in found.history]
    return rows, tiny.values(model)


def test_auto_leaves_no_trace_where_all_fits() -> None:
    """Dropout draws what it would have drawn, and Adam has seen no step."""
    told: list[tuple[str, int]] = []
    one, weights = trained(tiny.classifier(dropout=0.3, head_dropout=0.3))
    two, others = trained(tiny.classifier(dropout=0.3, head_dropout=0.3), micro_batch="auto",
                          parts_found=lambda *x: told.append(x))  # fmt: skip
    assert told == [("head", 0), ("tune", 0)]
    assert one == two
    for value, other in zip(weights.values(), others.values(), strict=True):
        np.testing.assert_array_equal(other, value)  # of seed generators too, whose names differ


def test_parts_are_found_before_a_rate_is() -> None:
    """Both by steps that are taken back, the rate's with the parts that were found."""
    told: list[tuple[str, int]] = []
    rates: list[str] = []
    x, y = tiny.arrays(21)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    plan = [tltf.Phase("all", 1, "auto", unfreeze="all")]
    tltf.fit_phases(hungry(), plan, data, progress=False, micro_batch="auto",
                    parts_found=lambda *x: told.append(x),
                    rate_found=lambda name, _: rates.append(name))  # fmt: skip
    assert (told, rates) == ([("all", 4)], ["all"])


def test_not_even_one_example_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "most", 160.0)
    with pytest.raises(OutOfMemoryError, match="with one example at a time"):
        fitted(hungry(), micro_batch="auto")


def test_what_it_refuses() -> None:
    assert parsed_micro_batch("auto") == "auto"
    assert parsed_micro_batch("0") == 0
    for text in ("-1", "some", "1.5", ""):
        with pytest.raises(ArgumentError, match="expected auto or a number of examples"):
            parsed_micro_batch(text)
    spec = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="VGG16"))
    check_parts(spec, 8, "multiworker")
    with pytest.raises(ArgumentError, match="would not fail alike"):
        check_parts(spec, "auto", "multiworker")
    several = Distribution()
    several.workers = 2
    with pytest.raises(ArgumentError, match="would not fail alike"):
        trained(tiny.classifier(), micro_batch="auto", distribution=several)
    for other in (
        dataclasses.replace(spec, regularizer="bss:0.001"),
        dataclasses.replace(spec, adapt=AdaptSpec(target="y", method="mmd")),
    ):
        with pytest.raises(ArgumentError, match="compares the examples of a batch"):
            check_parts(other, 8)


def test_the_command_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory is 74 and names the flag; with it the same command goes on to the end."""
    data = write_digit_folder(tmp_path / "digits", (0, 1), 20)
    real = Distribution.train_function

    def small_machine(self: Distribution, model: keras.Model) -> Any:
        step = real(self, model)

        def one(iterator: Any) -> Any:
            if not 0 < self.micro_batch <= 4:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return step(iterator)

        return one

    monkeypatch.setattr(Distribution, "train_function", small_machine)
    flags = {"data": data, "backbone": "small_cnn", "weights": "none", "image_size": 8,
             "workdir": tmp_path / "run", "head_epochs": 1, "tune_epochs": 1, "batch_size": 16,
             "export": "none", "cache": "off"}  # fmt: skip
    done = command("train", **flags)
    assert done.code == 74, done.err
    assert "add --micro_batch=auto" in done.last_line
    done = command("train", **flags, micro_batch="auto")
    assert done.code == 0, done.err
    assert "head: micro_batch = 4: more at once ran out of memory" in done.err
    assert command("train", **flags, micro_batch="lots").code == 64
