"""SavedModelLayer: aliased weights, toggles, modes, and round trips without a difference."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tltf
from tltf import SavedModelLayer
from tltf.errors import ArgumentError, DataError, InputMissingError, SecurityError

N = 8
TRAINABLE = ("keras2", "vision", "encoder", "sentence")
# one format in every run, the others in `make test-all`
EACH = ("keras2", *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINABLE[1:]))


def data(name: str) -> Any:
    """A batch that the module takes."""
    random = np.random.default_rng(0)
    if name == "encoder":
        ids = random.integers(0, 10, (N, 5)).astype("int32")
        return {
            "input_word_ids": ids,
            "input_mask": np.ones_like(ids),
            "input_type_ids": np.zeros_like(ids),
        }
    if name == "sentence":
        return np.array(["a good film", "bad", "the films", "good good"] * 2, object)
    if name == "serving":
        return random.random((N, 3), "float32")
    return random.random((N, 8, 8, 3), "float32")


def model_of(layer: SavedModelLayer, name: str) -> keras.Model:
    """input -> layer -> Dense, compiled for a small learning rate."""
    x = data(name)
    if isinstance(x, dict):
        inputs: Any = {key: keras.Input((None,), dtype="int32", name=key) for key in sorted(x)}
    elif name == "sentence":
        inputs = keras.Input((), dtype="string")
    else:
        inputs = keras.Input(x.shape[1:])
    out = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(0))
    model = keras.Model(inputs, out(layer(inputs)))
    compiled(model)
    return model


def compiled(model: keras.Model) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)


def step(model: keras.Model, name: str) -> float:
    x = data(name)
    if name == "sentence":
        x = tf.constant(x)
    return float(model.train_on_batch(x, np.arange(N) % 2))


def answers(model: keras.Model, name: str) -> np.ndarray:
    x = data(name)
    return np.asarray(model(tf.constant(x) if name == "sentence" else x, training=False))


def made(modules: dict[str, Path], name: str, **options: Any) -> SavedModelLayer:
    key = "pooled_output" if name == "encoder" else None
    return SavedModelLayer(modules[name], output_key=key, **options)


def values(layer: SavedModelLayer) -> dict[str, bytes]:
    return {key: variable.numpy().tobytes() for key, variable in layer.names.items()}


@pytest.fixture(autouse=True)
def _one_keras() -> Iterator[None]:
    """The second Keras is never in this process, whatever a test does."""
    yield
    assert "tf_keras" not in sys.modules
    assert "tensorflow_hub" not in sys.modules


@pytest.mark.parametrize("name", TRAINABLE)
def test_frozen_leaves_every_bit_and_trainable_moves_every_variable(
    modules: dict[str, Path], name: str
) -> None:
    layer = made(modules, name)
    model = model_of(layer, name)
    before, head = values(layer), model.layers[-1].kernel.numpy()
    for _ in range(3):
        step(model, name)
    assert values(layer) == before
    assert np.abs(model.layers[-1].kernel.numpy() - head).max() > 0

    layer.trainable = True
    compiled(model)
    for _ in range(3):
        step(model, name)
    assert not {key for key, value in values(layer).items() if value == before[key]}


@pytest.mark.parametrize(
    ("name", "trainable", "fixed"),
    [("keras2", 268, 8), ("vision", 54, 6), ("encoder", 264, 0), ("sentence", 300, 0)],
)
def test_the_summary_counts_it(
    modules: dict[str, Path], name: str, trainable: int, fixed: int
) -> None:
    layer = made(modules, name, trainable=True)
    model = model_of(layer, name)
    assert layer.count_params() == trainable + fixed
    assert sum(np.prod(v.shape) for v in layer.trainable_variables) == trainable
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert f"{trainable + fixed:,}" in "\n".join(lines)
    layer.trainable = False
    assert layer.trainable_variables == []
    assert len(layer.variables) == len(layer.names)


@pytest.mark.parametrize("name", EACH)
def test_every_round_trip_is_exact(modules: dict[str, Path], name: str, tmp_path: Path) -> None:
    own = shutil.copytree(modules[name], tmp_path / "module")
    layer = made({name: own}, name, trainable=True)
    model = model_of(layer, name)
    step(model, name)
    expected = answers(model, name)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))

    def exactly(again: keras.Model) -> None:
        np.testing.assert_array_equal(answers(again, name), expected)

    fresh = keras.models.clone_model(model)
    assert np.abs(answers(fresh, name) - expected).max() > 0
    fresh.load_weights(tmp_path / "m.weights.h5")
    exactly(fresh)
    fresh = keras.models.clone_model(model)
    tf.train.Checkpoint(model=fresh).read(str(tmp_path / "checkpoint")).assert_consumed()
    exactly(fresh)
    exactly(keras.models.load_model(tmp_path / "m.keras", safe_mode=False))

    shutil.rmtree(own)
    gone = keras.models.load_model(tmp_path / "m.keras", safe_mode=False)
    exactly(gone)
    assert [v.path for v in gone.trainable_variables] == [v.path for v in model.trainable_variables]
    step(gone, name)  # its optimizer knows the variables
    gone.save(tmp_path / "again.keras")
    np.testing.assert_array_equal(
        answers(keras.models.load_model(tmp_path / "again.keras", safe_mode=False), name),
        answers(gone, name),
    )


@pytest.mark.parametrize("name", [pytest.param("keras2", marks=pytest.mark.slow), "sentence"])
def test_keras_export(modules: dict[str, Path], name: str, tmp_path: Path) -> None:
    model = model_of(made(modules, name, trainable=True), name)
    step(model, name)
    model.export(tmp_path / "servable", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "servable"))
    x = data(name)
    served = loaded.serve(tf.constant(x) if name == "sentence" else x)
    np.testing.assert_array_equal(np.asarray(served), answers(model, name))


def test_a_file_is_code_and_says_so(modules: dict[str, Path], tmp_path: Path) -> None:
    model_of(made(modules, "vision"), "vision").save(tmp_path / "m.keras")
    with pytest.raises(SecurityError, match=r"SavedModel.*which is code.*safe_mode=False"):
        keras.models.load_model(tmp_path / "m.keras")


def test_parts_of_it_train(modules: dict[str, Path]) -> None:
    layer = made(modules, "keras2", trainable="regex:conv_2/kernel")
    model = model_of(layer, "keras2")
    assert list(layer.blocks) == ["conv_1", "conv_2"]
    assert [v.path for v in layer.trainable_variables] == [f"{layer.name}/conv_2/kernel"]
    before = values(layer)
    step(model, "keras2")
    moved = {key for key, value in values(layer).items() if value != before[key]}
    assert moved == {"conv_2/kernel"}  # statistics and Dropout hold still
    again = keras.models.clone_model(model)
    assert [v.path for v in again.layers[1].trainable_variables] == [
        v.path for v in layer.trainable_variables
    ]
    assert layer.unfreeze("last:1") == ["conv_2/bias", "conv_2/kernel"]
    assert layer.unfreeze("blocks:conv_1") == [
        "bn_1/beta", "bn_1/gamma", "conv_1/bias", "conv_1/kernel",
    ]  # fmt: skip
    assert len(layer.unfreeze("all")) == 6
    assert layer.whole
    assert layer.unfreeze("none") == []
    assert not layer.trainable_variables
    for wrong in ("regex:nothing", "blocks:conv_9", "regex:moving_mean"):
        with pytest.raises(ArgumentError, match=r"selects nothing.*conv_1, conv_2"):
            layer.unfreeze(wrong)


def test_blocks_from_nested_names(modules: dict[str, Path]) -> None:
    assert list(made(modules, "encoder").blocks) == [
        "embeddings", "layer_0", "pooler_transform",
    ]  # fmt: skip
    assert list(made(modules, "vision").blocks) == ["stage_1", "stage_2"]


def test_training_mode_is_passed_only_while_all_of_it_trains(modules: dict[str, Path]) -> None:
    layer = made(modules, "keras2", trainable=True)
    x = data("keras2")
    quiet = np.asarray(layer(x, training=False))
    assert np.abs(np.asarray(layer(x, training=True)) - quiet).max() > 0
    moved = layer.names["bn_1/moving_mean"].numpy()
    assert np.abs(moved).max() > 0
    layer.trainable = False
    fixed = np.asarray(layer(x, training=False))
    np.testing.assert_array_equal(layer(x, training=True), fixed)
    np.testing.assert_array_equal(layer.names["bn_1/moving_mean"].numpy(), moved)


def test_penalties_count_once_and_while_they_train(modules: dict[str, Path]) -> None:
    layer = made(modules, "keras2", trainable=True)
    model = model_of(layer, "keras2")
    kernels = [layer.names[f"conv_{i}/kernel"].numpy() for i in (1, 2)]
    expected = [0.01 * (kernels[0] ** 2).sum(), 0.02 * (kernels[1] ** 2).sum()]
    answers(model, "keras2")
    np.testing.assert_allclose([float(x) for x in model.losses], expected, rtol=1e-5)
    layer.unfreeze("blocks:conv_2")
    np.testing.assert_allclose([float(x) for x in model.losses], expected[1:], rtol=1e-5)
    layer.trainable = False
    assert model.losses == []


@pytest.mark.parametrize(
    "policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"]
)
def test_mixed_precision(modules: dict[str, Path], policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        layer = made(modules, "keras2", trainable=True)
        model = model_of(layer, "keras2")
        before = values(layer)
        assert np.isfinite(step(model, "keras2"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in layer.variables} == {"float32"}
    assert values(layer) != before


def test_xla_where_the_graph_allows_it(modules: dict[str, Path]) -> None:
    assert {n: made(modules, n).supports_jit for n in TRAINABLE} == {
        "keras2": True, "vision": True, "encoder": True, "sentence": False,
    }  # fmt: skip
    layer = made(modules, "vision", trainable=True)
    jitted = tf.function(lambda x: layer(x, training=False), jit_compile=True)
    x = tf.constant(data("vision"))
    np.testing.assert_allclose(jitted(x), layer(x), rtol=1e-5, atol=1e-6)


def test_dictionaries(modules: dict[str, Path]) -> None:
    layer = SavedModelLayer(modules["encoder"])
    found = layer(data("encoder"))
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "sequence_output": (N, 5, 6), "pooled_output": (N, 6),
    }  # fmt: skip
    wide = {key: value.astype("int64") for key, value in data("encoder").items()}
    np.testing.assert_array_equal(layer(wide)["pooled_output"], found["pooled_output"])


def test_signatures_are_used_frozen(modules: dict[str, Path]) -> None:
    layer = SavedModelLayer(modules["serving"])
    x = data("serving")
    np.testing.assert_allclose(layer(x), x @ np.ones((3, 2)), rtol=1e-6)
    assert layer.count_params() == 6
    assert layer.trainable_variables == []
    with pytest.raises(ArgumentError, match="no callable object, so it cannot be trained"):
        SavedModelLayer(modules["serving"], trainable=True)
    with pytest.raises(ArgumentError, match=r"no signature 'serve'.*it has serving_default"):
        SavedModelLayer(modules["serving"], signature="serve")


def _small(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in x.items() if key != "input_mask"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vision", lambda x: x[:, :7], r"shape \[8, 7, 8, 3\]; the module takes float32 \[None, 8"),
        ("vision", lambda x: x.astype("uint8"), "dtype uint8; the module takes float32"),
        ("vision", lambda x: {"x": x}, "got a dictionary with x, expected one tensor"),
        ("encoder", lambda x: x["input_mask"], "got one tensor, expected a dictionary"),
        ("encoder", _small, "'input_mask' is missing.*input_word_ids: int32"),
        ("encoder", lambda x: {**x, "extra": x["input_mask"]}, "'extra' is unknown"),
        ("encoder", lambda x: {k: v * 1.0 for k, v in x.items()}, "dtype float64"),
        ("sentence", lambda x: np.zeros(3), "dtype float64; the module takes string"),
    ],
)
def test_wrong_inputs_name_what_is_wanted(
    modules: dict[str, Path], name: str, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        SavedModelLayer(modules[name])(change(data(name)))


def test_wrong_output_key(modules: dict[str, Path]) -> None:
    with pytest.raises(ArgumentError, match="gives pooled_output, sequence_output; did you mean"):
        SavedModelLayer(modules["encoder"], output_key="pooled")(data("encoder"))
    with pytest.raises(ArgumentError, match="gives one tensor"):
        SavedModelLayer(modules["vision"], output_key="x")(data("vision"))


def test_refused(modules: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"TensorFlow 1.*TF2 SavedModel"):
        SavedModelLayer(modules["tf1"])
    with pytest.raises(InputMissingError, match=r"no saved_model\.pb"):
        SavedModelLayer(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"saved_model\.pb is damaged"):
        SavedModelLayer(tmp_path)
    part = shutil.copytree(modules["vision"], tmp_path / "part")
    next((part / "variables").glob("*.data*")).unlink()
    with pytest.raises(DataError, match="cannot load the SavedModel"):
        SavedModelLayer(part)


def test_a_missing_or_other_module_is_named_when_used(
    modules: dict[str, Path], tmp_path: Path
) -> None:
    own = shutil.copytree(modules["vision"], tmp_path / "module")
    layer = SavedModelLayer(own)
    layer(data("vision"))
    config = layer.get_config()
    (own / "extra.txt").write_text("x")
    again = SavedModelLayer.from_config(config)
    with pytest.raises(DataError, match=f"SHA-256 {layer.sha256}.*{own}"):
        again(data("vision"))
    with pytest.raises(DataError, match=f"not the one that was recorded.*{layer.sha256}"):
        SavedModelLayer(own, sha256=layer.sha256)


REPLICAS = """
import sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, tltf
x = np.random.default_rng(0).random((8, 8, 8, 3), "float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = tltf.SavedModelLayer(sys.argv[1], trainable=True)
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
data = tf.data.Dataset.from_tensor_slices((x, np.ones((8, 6), "float32"))).batch(8)
model.fit(data, epochs=1, verbose=0)
one = tltf.SavedModelLayer(sys.argv[1], trainable=True)
single = keras.Sequential([keras.Input((8, 8, 3)), one])
single.compile(keras.optimizers.SGD(0.1), "mse")
single.fit(data, epochs=1, verbose=0)
for name, variable in one.names.items():
    # each replica centres by its own half, so the kernels are close and the statistics equal
    close = {"rtol": 1e-5} if name.endswith("mean") else {"atol": 1e-3}
    np.testing.assert_allclose(layer.names[name].numpy(), variable.numpy(), **close)
mean = layer.names["vision/stage_1/moving_mean"].value
parts = [v.numpy() for v in mean.values]
assert not np.array_equal(*parts), "each replica keeps its own between two reads"
print("replicas agree")
"""


@pytest.mark.slow
def test_replicas_share_their_statistics(modules: dict[str, Path]) -> None:
    """Two replicas see different halves; what a read gives is the mean of both."""
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, str(modules["vision"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "replicas agree" in done.stdout, done.stderr[-2000:]


def test_it_is_public() -> None:
    assert tltf.SavedModelLayer is SavedModelLayer
