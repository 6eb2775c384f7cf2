"""Every private place of Keras, TensorFlow and absl that tltf leans on, tried here.

When a new version breaks one of these, this file says which, before a training does. A private
attribute that is used and not listed here fails :func:`test_the_list_is_complete`.
"""

from __future__ import annotations

import ast
import random
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from absl import flags

import tltf
from tltf.training.freezing import sublayers

HOUSE = Path(tltf.__file__).parent

# attribute -> the modules that use it
SEAMS = {
    "_flags": {"cli.app"},
    "_flatten_layers": {
        "backbones.hub.layer",
        "training.description",
        "training.environment",
        "training.freezing",
    },
    "_get_variable_index": {"training.adam"},
    "_inbound_nodes": {"adapt"},
    "_keras_history": {"adapt", "backbones.network", "models.taps", "training.boundary"},
    "_keras_mask": {"backbones.network"},
    "_loss_tracker": {"training.steps"},
    "_model_variables_moving_average": {"training.averaging"},
    "_momentums": {"training.adam"},
    "_nodes_by_depth": {"training.boundary", "training.cost", "training.description"},
    "_run_through_graph": {"backbones.network"},
    "_standardize_inputs": {"backbones.network"},
    "_symbolic_build": {"training.strategies"},
    "_trainable_variables": {"training.averaging", "training.phases"},
    "_untrack_variable": {"training.adapters"},
    "_use_weight_decay": {"training.adam"},
    "_velocities": {"training.adam"},
}
PUBLIC_AFTER_ALL = {"_exit"}  # os._exit


def private_names(tree: ast.Module) -> set[str]:
    """Attributes with one leading underscore of anything but ``self``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own:
                found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = node.func.id in ("getattr", "hasattr", "setattr") and len(node.args) > 1
            if named and isinstance(node.args[1], ast.Constant):
                found.add(str(node.args[1].value))
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_the_list_is_complete() -> None:
    found: dict[str, set[str]] = {}
    for path in HOUSE.rglob("*.py"):
        module = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
        for name in private_names(ast.parse(path.read_text("utf-8"))) - PUBLIC_AFTER_ALL:
            found.setdefault(name, set()).add(module)
    assert found == SEAMS


@pytest.mark.parametrize("module", sorted({m for users in SEAMS.values() for m in users}))
def test_each_use_is_marked(module: str) -> None:
    """``seam:`` in the file, so that a reader sees what is not promised."""
    if module == "cli.app":
        pytest.skip("absl's own help prints from FlagValues._flags; no other way to list them")
    path = HOUSE.joinpath(*module.split(".")).with_suffix(".py")
    assert "seam:" in path.read_text("utf-8")


def test_absl_lists_its_flags() -> None:
    values = flags.FlagValues()
    flags.DEFINE_bool("shown", True, "help", flag_values=values)
    assert values._flags()["shown"].help == "help"


def test_layers_flatten() -> None:
    """A composite layer's direct children, and all layers of a model."""

    class Composite(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(1)

    composite = Composite()
    assert sublayers(composite) == [composite.first, composite.second]
    model = keras.Sequential([keras.Input((2,)), composite])
    assert composite.second in model._flatten_layers()


def test_a_symbolic_tensor_knows_its_layer() -> None:
    dense = keras.layers.Dense(1)
    inputs = keras.Input((2,))
    history = dense(inputs)._keras_history
    assert history.operation is dense
    node = history.operation._inbound_nodes[history.node_index]
    assert node.input_tensors[0] is inputs


def test_a_mask_lies_on_its_tensor() -> None:
    tensor, mask = keras.ops.ones((1, 2, 1)), keras.ops.array([[True, False]])
    tensor._keras_mask = mask
    pooled = keras.layers.GlobalAveragePooling1D()(tensor * [[[2.0], [4.0]]])
    assert float(pooled[0, 0]) == 3.0
    weighted = keras.ops.array([[[2.0], [4.0]]])
    weighted._keras_mask = mask
    assert float(keras.layers.GlobalAveragePooling1D()(weighted)[0, 0]) == 2.0


def test_a_graph_runs_with_a_function_for_each_operation() -> None:
    body = tiny.body()
    seen: list[str] = []

    def watched(operation: keras.Operation) -> keras.Operation:
        seen.append(operation.name)
        return operation

    x, _ = tiny.arrays()
    out = body._run_through_graph(body._standardize_inputs(x), operation_fn=watched)
    np.testing.assert_allclose(keras.tree.flatten(out)[0], body(x), rtol=1e-6)
    assert seen == [layer.name for layer in body.layers[1:]]


def test_nodes_by_depth_cover_the_graph() -> None:
    body = tiny.body()
    nodes = [n for depth in sorted(body._nodes_by_depth, reverse=True)
             for n in body._nodes_by_depth[depth]]  # fmt: skip
    assert [node.operation for node in nodes] == body.layers
    assert nodes[0].is_input
    assert nodes[1].input_tensors[0] is nodes[0].outputs[0]


def test_an_optimizer_knows_its_variables() -> None:
    optimizer, variable = keras.optimizers.SGD(), keras.Variable(1.0)
    optimizer.build([variable])
    assert [id(v) for v in optimizer._trainable_variables] == [id(variable)]


def test_a_compiled_model_counts_its_loss_and_builds_its_metrics() -> None:
    """What :mod:`tltf.training.strategies` does where ``fit`` cannot be used."""
    model = tiny.classifier()
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    x, y = tiny.arrays(4)
    model._symbolic_build(data_batch=(x, y, np.ones(4, "float32")))
    assert len(model.metrics_variables) == 4  # total and count, of the loss and of the metric
    model._loss_tracker.update_state(2.0, sample_weight=3)
    model._loss_tracker.update_state(6.0, sample_weight=1)
    assert float(model.get_metrics_result()["loss"]) == 3.0


def test_a_layer_forgets_a_variable() -> None:
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    kernel, bias = layer.weights
    layer.enable_lora(1)
    for variable in layer.weights[2:]:
        layer._untrack_variable(variable)
    assert [id(v) for v in layer.weights] == [id(kernel), id(bias)]
    layer.lora_enabled = False
    assert layer.kernel is kernel


def test_an_optimizer_holds_means_in_the_order_of_its_variables() -> None:
    first, second = keras.Variable([1.0]), keras.Variable([2.0, 3.0])
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([first, second])
    optimizer.ema_momentum = keras.Variable(0.0)
    optimizer.apply([np.array([1.0]), np.array([0.0, 1.0])], [first, second])
    optimizer.ema_momentum.assign(0.75)
    optimizer.apply([np.array([4.0]), np.array([0.0, 0.0])], [first, second])
    assert [id(v) for v in optimizer._trainable_variables] == [id(first), id(second)]
    means = [v.numpy().tolist() for v in optimizer._model_variables_moving_average]
    assert means == [[-1.0], [2.0, 2.0]]
    assert {id(v) for v in optimizer._model_variables_moving_average} <= {
        id(v) for v in optimizer.variables
    }


def test_applications_ask_get_file_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What :func:`tltf.backbones.weights.official_files` replaces is what they call."""
    asked: list[str] = []

    class Stop(Exception):
        pass

    def get_file(name: str, *_: object, **__: object) -> str:
        asked.append(name)
        raise Stop

    module = sys.modules[keras.utils.get_file.__module__]
    monkeypatch.setattr(module, "get_file", get_file)
    with pytest.raises(Stop):
        keras.applications.MobileNetV2(include_top=False, input_shape=(96, 96, 3))
    assert asked[0].startswith("mobilenet_v2_weights")


def test_initializers_draw_their_seed_from_random() -> None:
    def kernel() -> np.ndarray:
        layer = keras.layers.Dense(4)
        layer.build((1, 3))
        return layer.kernel.numpy()

    state = random.getstate()
    first = kernel()
    random.setstate(state)
    np.testing.assert_array_equal(kernel(), first)


def test_the_trap_is_still_there() -> None:
    """keras#20285: when this fails, Keras has mended it and Backbone.call can go."""
    base = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.9)])
    image = keras.Input((3,))
    model = keras.Model(image, base(image, training=False))
    x = np.ones((50, 3), "float32")
    assert (np.asarray(model(x)) == x).all()
    assert (np.asarray(model(x, training=True)) == 0.0).any()


def test_adam_keeps_its_moments_by_the_place_of_a_variable() -> None:
    """seams: ``_momentums``, ``_velocities``, ``_get_variable_index``, ``_use_weight_decay``."""
    own = [keras.Variable(np.ones(2), name=name) for name in ("kernel", "bias")]
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(own)
    assert [optimizer._get_variable_index(v.value) for v in own] == [0, 1]
    assert [m.shape for m in optimizer._momentums + optimizer._velocities] == [(2,)] * 4
    assert [optimizer._use_weight_decay(v.value) for v in own] == [True, False]
