"""What every backbone keeps: preprocessing inside, named blocks, quiet where frozen."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from tltf.backbones import as_backbone, backbone
from tltf.backbones.applications import constructor
from tltf.backbones.catalog import SCRATCH, TABLE
from tltf.backbones.network import Backbone

# One small representative of each family, and the names of its blocks.
NUMBERED = {
    "VGG16": [f"block{i}" for i in range(1, 6)],
    "ResNet50": [f"conv{i}" for i in range(1, 6)],
    "ResNet50V2": [f"conv{i}" for i in range(1, 6)],
    "DenseNet121": [f"conv{i}" for i in range(1, 6)],
    "InceptionV3": ["stem", *(f"mixed{i}" for i in range(11))],
    "InceptionResNetV2": (
        ["stem", "mixed_5b", "block35", "mixed_6a", "block17", "mixed_7a", "block8", "conv_7b"]
    ),
    "Xception": [f"block{i}" for i in range(1, 15)],
    "NASNetMobile": [
        *("stem", "cell_0", "cell_1", "cell_2", "cell_3", "reduce_4"),
        *("cell_5", "cell_6", "cell_7", "cell_8", "reduce_8"),
        *("cell_9", "cell_10", "cell_11", "cell_12"),
    ],
    "MobileNet": ["conv1", *(f"block_{i}" for i in range(1, 14))],
    "MobileNetV2": ["Conv1", *(f"block_{i}" for i in range(1, 17)), "Conv_1"],
    "MobileNetV3Small": (
        ["conv", "expanded_conv", *(f"expanded_conv_{i}" for i in range(1, 11)), "conv_1"]
    ),
    "EfficientNetB0": ["stem", *(f"block{i}" for i in range(1, 8)), "top"],
    "EfficientNetV2B0": ["stem", *(f"block{i}" for i in range(1, 7)), "top"],
    "ConvNeXtTiny": ["stem", *(f"stage_{i}" for i in range(4))],
    "small_cnn": ["block1", "block2", "block3"],
    "mlp": ["dense"],
}
REST = sorted(set(TABLE) - set(NUMBERED))


def images(side: int, *, count: int = 2, seed: int = 0) -> np.ndarray:
    """float32 ``[count, side, side, 3]`` of whole numbers in [0, 255]."""
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3))
    return values.astype("float32")


def smallest(name: str) -> Backbone:
    return backbone(name, weights="none", input_size=TABLE[name].minimum)


def parents(operation: keras.Operation) -> list[keras.Operation]:
    return [node.operation for node in operation._inbound_nodes[0].parent_nodes]


def check_blocks(model: Backbone) -> None:
    """Every layer in exactly one block, in order, and no weights feed an earlier block."""
    blocks = model.blocks
    order = {id(layer): place for place, layer in enumerate(model.layers)}
    placed = [id(layer) for layers in blocks.values() for layer in layers]
    assert sorted(placed) == sorted(order)
    assert all(any(layer.weights for layer in layers) for layers in blocks.values())
    for layers in blocks.values():
        places = [order[id(layer)] for layer in layers]
        assert places == sorted(places)
    block = {
        id(layer): place
        for place, layers in enumerate(blocks.values())
        for layer in layers
        if layer.weights
    }
    highest: dict[int, int] = {}  # the highest block with weights at or below an operation
    for operation in model.operations:
        below = max((highest[id(parent)] for parent in parents(operation)), default=0)
        own = block.get(id(operation), below)
        assert below <= own, (operation.name, below, own)
        highest[id(operation)] = own


def check_preprocessing(model: Backbone, name: str) -> None:
    """What goes into the network is what Keras' own ``preprocess_input`` gives."""
    x = images(TABLE[name].minimum)
    own = sys.modules[constructor(TABLE[name]).__module__].preprocess_input(x.copy())
    if TABLE[name].preprocessing == "inside":
        np.testing.assert_array_equal(own, x)  # Keras says: nothing to do outside
        plain = constructor(TABLE[name])(include_top=False, weights=None, input_shape=x.shape[1:])
        plain.set_weights(model.get_weights())
        np.testing.assert_array_equal(model(x), plain(x))
        return
    front = keras.Model(model.input, model.get_layer("preprocess").output)
    np.testing.assert_allclose(front(x), own, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(front(x.astype("uint8")), own, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NUMBERED)
def test_every_family(name: str) -> None:
    model = smallest(name)
    entry = TABLE[name]
    assert isinstance(model, Backbone)
    assert list(model.blocks) == NUMBERED[name]
    assert model.output_shape[-1] == entry.channels
    check_blocks(model)
    if name not in SCRATCH:
        assert model.count_params() / 1e6 == pytest.approx(entry.params_millions, abs=0.006)
        check_preprocessing(model, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_every_other_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = smallest(name)
    check_blocks(model)
    check_preprocessing(model, name)
    assert model.output_shape[-1] == TABLE[name].channels
    assert model.count_params() / 1e6 == pytest.approx(TABLE[name].params_millions, abs=0.006)
    with capsys.disabled():
        count = len(model.blocks)
        print(f"\n{name}: {count} blocks, {len(model.layers)} layers, {model.count_params():,}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERED)
def test_every_family_survives_a_file(name: str, tmp_path) -> None:
    model = smallest(name)
    model.save(tmp_path / "b.keras")
    again = keras.models.load_model(tmp_path / "b.keras", safe_mode=True)
    x = images(TABLE[name].minimum)
    assert {k: len(v) for k, v in again.blocks.items()} == {
        k: len(v) for k, v in model.blocks.items()
    }
    np.testing.assert_array_equal(model(x), again(x))


def noisy(name: str = "inner", *, rate: float = 0.5) -> Backbone:
    """Two numbered blocks, each with BatchNorm and Dropout."""
    image = x = keras.Input((8, 8, 3))
    for number in (1, 2):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"block{number}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{number}_bn")(x)
        x = keras.layers.Dropout(rate, name=f"block{number}_drop")(x)
    return as_backbone(keras.Model(image, x, name=name))


def classifier(base: keras.Model) -> keras.Model:
    """The outer model in whose ``fit`` the promises must hold."""
    pooled = keras.layers.GlobalAveragePooling2D()(base(base.input))
    model = keras.Model(base.input, keras.layers.Dense(2, name="head")(pooled))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fitted(model: keras.Model, side: int = 8) -> keras.Model:
    x = images(side, count=4)
    model.fit(x, np.array([0, 1, 0, 1]), epochs=1, batch_size=4, verbose=0)
    return model


def statistics(model: keras.Model, block: str) -> np.ndarray:
    return model.get_layer(f"{block}_bn").moving_mean.numpy()


def silent(model: keras.Model, x: np.ndarray) -> bool:
    """Whether two calls with training=True agree, as they do without Dropout."""
    return np.array_equal(model(x, training=True), model(x, training=True))


def freeze(base: Backbone, *names: str) -> None:
    for name in names:
        for layer in base.blocks[name]:
            layer.trainable = False


def reloaded(base: Backbone, folder) -> Backbone:
    base.save(folder / "b.keras")
    return keras.models.load_model(folder / "b.keras", safe_mode=True)


def nested_clone(base: Backbone, folder) -> Backbone:
    clone = keras.models.clone_model(classifier(base))
    return next(layer for layer in clone.layers if isinstance(layer, Backbone))


WAYS = {
    "itself": lambda base, folder: base,
    "file": reloaded,
    "clone": lambda base, folder: keras.models.clone_model(base),
    "nested clone": nested_clone,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["frozen", "inference_mode"])
def test_quiet_as_a_whole(way: str, how: str, tmp_path) -> None:
    base = noisy()
    if how == "frozen":
        base.trainable = False
    else:
        base.inference_mode = True
    base = WAYS[way](base, tmp_path)
    kernel = base.get_layer("block1_conv").kernel.numpy()
    before = [statistics(base, "block1"), statistics(base, "block2")]
    model = fitted(classifier(base))
    np.testing.assert_array_equal(before, [statistics(base, "block1"), statistics(base, "block2")])
    assert silent(model, images(8))
    moved = not np.array_equal(kernel, base.get_layer("block1_conv").kernel)
    assert moved == (how == "inference_mode")
    assert bool(base.trainable_variables) == (how == "inference_mode")


@pytest.mark.parametrize("way", WAYS)
def test_quiet_in_part(way: str, tmp_path) -> None:
    base = noisy()
    freeze(base, "block1")
    base = WAYS[way](base, tmp_path)
    assert list(base.blocks) == ["block1", "block2"]
    before = [statistics(base, "block1"), statistics(base, "block2")]
    fitted(classifier(base))
    np.testing.assert_array_equal(before[0], statistics(base, "block1"))
    assert not np.array_equal(before[1], statistics(base, "block2"))
    lower = Backbone(base.input, base.get_layer("block1_drop").output)
    assert silent(lower, images(8))
    assert not silent(base, images(8))


def test_not_frozen_is_not_quiet() -> None:
    base = noisy()
    before = statistics(base, "block1")
    model = fitted(classifier(base))
    assert not np.array_equal(before, statistics(base, "block1"))
    assert not silent(model, images(8))


def test_plain_keras_is_not_enough() -> None:
    """The reason for the class: if this fails, Keras has mended it and the seam can go."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.Conv2D(4, 3)(image))
    plain = keras.Model(image, x)
    plain.trainable = False
    pooled = keras.layers.GlobalAveragePooling2D()(plain(image, training=False))
    assert not silent(keras.Model(image, pooled), images(8))


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_a_frozen_layer_of_a_nested_model_is_quiet(kind: str) -> None:
    layers = [
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dropout(0.5, name="drop"),
        keras.layers.Conv2D(4, 1, name="conv2"),
    ]
    inner = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    if kind == "functional":
        inner = keras.Model(inner.inputs, inner.outputs)
    image = keras.Input((8, 8, 3))
    base = as_backbone(keras.Model(image, inner(image)))
    for layer in layers[:3]:
        layer.trainable = False
    before = layers[1].moving_mean.numpy()
    kernel = layers[3].kernel.numpy()
    model = fitted(classifier(base))
    np.testing.assert_array_equal(before, layers[1].moving_mean)
    assert not np.array_equal(kernel, layers[3].kernel)
    assert silent(model, images(8))


def test_a_frozen_block_of_efficientnet_is_silent() -> None:
    base = smallest("EfficientNetB0")
    names = list(base.blocks)
    freeze(base, *names[: names.index("block4")])
    cut = base.get_layer("block3b_add").output
    x = images(32)
    assert silent(Backbone(base.input, cut), x)
    assert not silent(base, x)
    base.inference_mode = True
    assert silent(base, x)


def test_export_keeps_it(tmp_path) -> None:
    base = noisy()
    base.trainable = False
    model = classifier(base)
    model.export(tmp_path / "m", verbose=False)
    import tensorflow as tf

    loaded = tf.saved_model.load(str(tmp_path / "m"))
    np.testing.assert_allclose(loaded.serve(images(8)), model(images(8)), atol=1e-6)


def test_tail_and_prefix_make_the_whole() -> None:
    base = smallest("MobileNetV2")
    cut = base.get_layer("block_8_add").output
    prefix, tail = Backbone(base.input, cut), Backbone(cut, base.output)
    assert list(tail.blocks) == list(base.blocks)[9:]
    x = images(32)
    np.testing.assert_array_equal(tail(prefix(x)), base(x))


def test_seams() -> None:
    """Every private attribute that network.py and weights.py lean on is there and works."""
    base = noisy()
    assert len(base._standardize_inputs(images(8))) == 1
    seen = []

    def noticed(layer):
        seen.append(layer.name)
        return layer

    base._run_through_graph([keras.ops.convert_to_tensor(images(8))], operation_fn=noticed)
    assert seen == [layer.name for layer in base.layers[1:]]
    assert base.output._keras_history.operation is base.layers[-1]
    assert callable(sys.modules[keras.utils.get_file.__module__].get_file)
    masked = keras.layers.Masking()(np.zeros((1, 2, 3), "float32"))
    assert masked._keras_mask.shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "last", "policy"),
    [
        ("MobileNet", "preprocess", "mixed_float16"),
        pytest.param("EfficientNetB0", "normalization", "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param(
            "ConvNeXtTiny",
            "convnext_tiny_prestem_normalization",
            "mixed_bfloat16",
            marks=pytest.mark.slow,
        ),
        ("MobileNetV3Small", "rescaling", "mixed_float16"),
    ],
)
def test_preprocessing_is_exact_in_half_precision(name: str, last: str, policy: str) -> None:
    x = images(32)
    full = preprocessed(smallest(name), last, x)
    keras.config.set_dtype_policy(policy)
    try:
        base = smallest(name)
        half = preprocessed(base, last, x)
        assert base(x).dtype == policy.removeprefix("mixed_")
        again = keras.models.clone_model(base)
    finally:
        keras.config.set_dtype_policy("float32")
    assert half.dtype == "float32"
    np.testing.assert_array_equal(full, half)
    np.testing.assert_array_equal(full, preprocessed(again, last, x))


def preprocessed(base: Backbone, last: str, x: np.ndarray) -> np.ndarray:
    """The images as the network sees them, up to the layer whose name begins with ``last``."""
    layer = next(layer for layer in base.layers if layer.name.startswith(last))
    return np.array(keras.Model(base.input, layer.output)(x))


def test_anybodys_model() -> None:
    plain = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    base = as_backbone(plain)
    assert as_backbone(base) is base
    assert list(base.blocks) == NUMBERED["MobileNet"]
    assert [id(w) for w in base.weights] == [id(w) for w in plain.weights]
    np.testing.assert_array_equal(base(images(32)), plain(images(32)))

    tower = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(4, 3, name="second"),
        ]
    )
    assert list(as_backbone(tower).blocks) == ["first", "second"]


def test_a_subclassed_model_is_one_block() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3)

        def call(self, x):
            return self.conv(x)

    with pytest.raises(ValueError, match=r"Own is a subclassed model.*input_size"):
        as_backbone(Own())
    base = as_backbone(Own(), input_size=8)
    assert len(base.blocks) == 1
    check_blocks(base)
    with pytest.raises(ValueError, match=r"no input shape yet.*keras\.Input"):
        as_backbone(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match=r"got str, expected a keras\.Model"):
        as_backbone("VGG16")
