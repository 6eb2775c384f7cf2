"""Files for devices and other runtimes: LiteRT and ONNX, measured before they are handed over.

A portable file takes float images ``[1, S, S, 3]`` in [0, 255], or for texts int32 token ids
``[1, L]`` filled up with the id of [PAD], and answers with calibrated
probabilities ``[1, C]`` (a regression with its value): decoding, labels and the reject rule stay
outside, since these runtimes have no strings. ``labels.txt`` lies beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tltf.errors import ArgumentError, GateError
from tltf.serving.decision import Decision

LITERT_KINDS = ("float", "float16", "dynamic", "int8")
REPRESENTATIVE = 200
LATENCY_RUNS = 50

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A portable file against the servable, on the same records.

    Accuracies are shares in [0, 1] (None for a regression or without labels); latencies are
    medians in seconds for one image.
    """

    name: str
    n: int
    same_label: float
    largest_difference: float
    accuracy: float | None
    accuracy_before: float | None
    bytes: int
    seconds: float
    seconds_before: float

    def sentence(self) -> str:
        """What was measured, for a person."""
        accuracy = ""
        if self.accuracy is not None and self.accuracy_before is not None:
            accuracy = (
                f", accuracy {100 * self.accuracy:.1f} % (servable"
                f" {100 * self.accuracy_before:.1f} %)"
            )
        return (
            f"{self.name}: {self.bytes / 1e6:.2f} MB, same answer on"
            f" {100 * self.same_label:.1f} % of {self.n} validation images{accuracy}, largest"
            f" difference {self.largest_difference:.2g}, one image {1000 * self.seconds:.1f} ms"
            f" (servable {1000 * self.seconds_before:.1f} ms)"
        )


def check_drop(found: Agreement, *, max_drop: float) -> None:
    """Refuses a file that lost accuracy.

    Args:
      max_drop: allowed loss in points (hundredths), for example 1.0.

    Raises:
      GateError: it lost more.
    """
    if found.accuracy is None or found.accuracy_before is None:
        return
    drop = 100 * (found.accuracy_before - found.accuracy)
    if drop > max_drop + 1e-9:
        raise GateError(
            f"{found.name} loses {drop:.1f} points of accuracy on {found.n} validation images,"
            f" allowed {max_drop:g}",
            where="--max_drop",
            kept="nothing was published",
            next_action="use another kind, such as --litert=float16, or raise --max_drop",
        )


def litert_bytes(
    model: keras.Model,
    decision: Decision,
    *,
    kind: str,
    images: Sequence[np.ndarray] = (),
    length: int | None = None,
) -> bytes:
    """The model as a LiteRT file.

    Args:
      model: from float images ``[B, S, S, 3]`` to logits.
      decision: its temperature goes into the graph.
      kind: ``float``, ``float16`` (weights), ``dynamic`` (int8 weights) or ``int8`` (weights
        and activations; the input and output stay float).
      images: real training images float32 ``[S, S, 3]`` (token ids for texts), for ``int8``.
      length: L, for texts.

    Raises:
      ArgumentError: an unknown kind, or ``int8`` without images.
    """
    if kind not in LITERT_KINDS:
        raise ArgumentError(
            f"litert={kind!r}, expected one of {', '.join(LITERT_KINDS)}", where="--litert"
        )
    if kind == "int8" and not len(images):
        raise ArgumentError("int8 without training images to measure ranges on", where="--litert")
    with tempfile.TemporaryDirectory() as folder:
        # A SavedModel with a fixed shape: from_concrete_functions converts and then yields NaN.
        module = tf.Module()
        function = probabilities_function(model, decision, length=length)
        concrete = function.get_concrete_function()
        module.captured = list(concrete.variables)
        tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if kind != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            converter.representative_dataset = lambda: (
                {input_name(model): image[None]} for image in images[:REPRESENTATIVE]
            )
        return bytes(converter.convert())


def input_name(model: keras.Model) -> str:
    """``images``, or ``token_ids`` for a model of texts."""
    return "token_ids" if "int" in model.inputs[0].dtype else "images"


def probabilities_function(
    model: keras.Model, decision: Decision, *, length: int | None = None
) -> Callable[..., tf.Tensor]:
    """``images`` float32 ``[1, S, S, 3]``, or ``token_ids`` int32 ``[1, length]``, ->
    ``probabilities`` (or ``value``)."""
    sides = [length if side is None else side for side in model.input_shape[1:]]
    spec = tf.TensorSpec([1, *sides], model.inputs[0].dtype, name=input_name(model))

    @tf.function(input_signature=[spec], autograph=False)
    def probabilities(x: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(model(x, training=False), tf.float32)
        if decision.task == "regression":
            return {"value": logits}
        scaled = logits / decision.temperature
        single = decision.task == "single_label"
        return {"probabilities": tf.nn.softmax(scaled) if single else tf.sigmoid(scaled)}

    return probabilities


def litert_run(data: bytes, *, threads: int = 2) -> Run:
    """One image ``[S, S, 3]`` -> probabilities ``[C]``, by ai-edge-litert.

    Raises:
      ArgumentError: the extra is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ArgumentError(
            "ai-edge-litert is not installed",
            where="--litert",
            next_action="pip install 'tltf[litert]'",
        ) from error
    interpreter = Interpreter(model_content=data, num_threads=threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    into, kind = details["index"], details["dtype"]
    out_of = interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(into, image[None].astype(kind))
        interpreter.invoke()
        return np.array(interpreter.get_tensor(out_of)[0])

    return run


def onnx_bytes(model: keras.Model, decision: Decision) -> bytes:
    """The model as an ONNX file, by ``model.export`` of Keras and tf2onnx.

    Raises:
      ArgumentError: the extra is not installed.
    """
    check_onnx_installed()
    x = model.output
    if decision.task != "regression":
        x = keras.layers.Rescaling(1 / decision.temperature, dtype="float32")(x)
        last = "softmax" if decision.task == "single_label" else "sigmoid"
        x = keras.layers.Activation(last, dtype="float32", name="probabilities")(x)
    whole = keras.Model(model.input, x)
    whole(np.zeros((1, *model.input_shape[1:]), np.float32), training=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        whole.export(str(path), format="onnx", verbose=False)
        return path.read_bytes()


def check_onnx_installed() -> None:
    """Raises ArgumentError unless the extra ``[onnx]`` is there."""
    try:
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            f"{error.name} is not installed", where="--onnx", next_action="pip install 'tltf[onnx]'"
        ) from error


def onnx_run(data: bytes) -> Run:
    """One image ``[S, S, 3]`` -> probabilities ``[C]``, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image[None].astype(np.float32)})[0][0]


def agreement(
    name: str, data: bytes, run: Run, *, model: keras.Model, decision: Decision,
    images: np.ndarray, targets: np.ndarray | None,
) -> Agreement:  # fmt: skip
    """Measures a portable file on images float32 ``[n, S, S, 3]``, or token ids ``[n, L]``.

    Args:
      name: for the sentence.
      data: the file.
      run: its runtime.
      targets: one-hot or multi-hot ``[n, C]``; None when there are no labels.
    """
    length = images.shape[1] if images.ndim == 2 else None
    function = probabilities_function(model, decision, length=length)

    def before(image: np.ndarray) -> np.ndarray:
        return next(iter(function(image[None]).values())).numpy()[0]

    ours = np.stack([run(image) for image in images])
    theirs = np.stack([before(image) for image in images])
    mine, other = _decided(ours, decision), _decided(theirs, decision)
    accuracy = accuracy_before = None
    if targets is not None and decision.task != "regression":
        wanted = _decided(np.asarray(targets, np.float32), decision)
        accuracy = float((mine == wanted).all(axis=1).mean())
        accuracy_before = float((other == wanted).all(axis=1).mean())
    return Agreement(
        name=name,
        n=len(images),
        same_label=float((mine == other).all(axis=1).mean()),
        largest_difference=float(np.abs(ours - theirs).max()),
        accuracy=accuracy,
        accuracy_before=accuracy_before,
        bytes=len(data),
        seconds=_median_seconds(run, images[0]),
        seconds_before=_median_seconds(before, images[0]),
    )


def _decided(outputs: np.ndarray, decision: Decision) -> np.ndarray:
    """``[n, k]`` of what is decided: the class, the set of labels, or the rounded value."""
    if decision.task == "single_label":
        return outputs.argmax(axis=1)[:, None]
    return outputs >= 0.5 if decision.task == "multi_label" else np.round(outputs, 3)


def _median_seconds(run: Run, image: np.ndarray) -> float:
    seconds = []
    for _ in range(LATENCY_RUNS):
        started = time.perf_counter()
        run(image)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
