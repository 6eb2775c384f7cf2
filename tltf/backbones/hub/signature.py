"""Inputs and outputs of a restored module: what it wants, said when it gets something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tltf.errors import ArgumentError, named_list, nearest

Structure = Any
"""A tensor, or a dictionary or list of such."""


def fitted(inputs: Structure, takes: Sequence[Structure], *, where: str) -> Structure:
    """The inputs as the module wants them: same structure, numbers of the same kind cast.

    Raises:
      ArgumentError: keys, dtype kind, rank or sizes that none of ``takes`` allows.
    """
    reasons = []
    for wanted in takes:
        try:
            return _fit(inputs, wanted)
        except _Unfit as error:
            reasons.append(str(error))
    raise ArgumentError(
        f"{reasons[0]}; the module takes {told(takes[0])}",
        where=where,
        next_action="give it what its signature wants",
    )


def tensors(inputs: Structure) -> Structure:
    """Arrays and plain lists as tensors; tensors, symbolic ones too, as they are."""
    if isinstance(inputs, Mapping):
        return {key: tensors(value) for key, value in inputs.items()}
    if tf.is_tensor(inputs) or isinstance(inputs, keras.KerasTensor):
        return inputs
    if isinstance(inputs, list | tuple):
        flat = tf.nest.flatten(inputs)
        if any(tf.is_tensor(x) or isinstance(x, keras.KerasTensor) for x in flat):
            return type(inputs)(tensors(item) for item in inputs)
    return tf.convert_to_tensor(inputs)


class _Unfit(Exception):
    """Why inputs do not fit one structure."""


def _fit(inputs: Structure, wanted: Structure) -> Structure:
    if isinstance(wanted, Mapping):
        if not isinstance(inputs, Mapping):
            raise _Unfit(f"got {_kind(inputs)}, expected a dictionary")
        wrong = sorted(set(inputs) ^ set(wanted))
        if wrong:
            what = "is unknown" if wrong[0] in inputs else "is missing"
            raise _Unfit(f"the input {wrong[0]!r} {what}")
        return {key: _fit(inputs[key], spec) for key, spec in wanted.items()}
    if isinstance(wanted, list | tuple):
        if not isinstance(inputs, list | tuple) or len(inputs) != len(wanted):
            raise _Unfit(f"got {_kind(inputs)}, expected {len(wanted)} tensors")
        return type(wanted)(_fit(x, spec) for x, spec in zip(inputs, wanted, strict=True))
    if isinstance(inputs, Mapping | list | tuple):
        raise _Unfit(f"got {_kind(inputs)}, expected one tensor")
    tensor = inputs
    if not wanted.shape.is_compatible_with(tensor.shape):
        raise _Unfit(f"got an input of shape {_sides(tensor.shape)}")
    return _cast(tensor, wanted.dtype)


def _cast(tensor: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Between floats (mixed precision), or between integers (token ids); nothing else."""
    floats = tensor.dtype.is_floating and dtype.is_floating
    integers = tensor.dtype.is_integer and dtype.is_integer
    if tensor.dtype == dtype or floats or integers:
        return tf.cast(tensor, dtype) if tensor.dtype != dtype else tensor
    raise _Unfit(f"got an input of dtype {tensor.dtype.name}")


def chosen(outputs: Structure, key: str | None, *, where: str) -> Structure:
    """One entry of a dictionary of outputs, or all of them.

    Raises:
      ArgumentError: there is no such entry, or no dictionary.
    """
    if key is None:
        return dict(outputs) if isinstance(outputs, Mapping) else outputs
    if not isinstance(outputs, Mapping):
        raise ArgumentError(
            f"output_key={key!r}, but the module gives one tensor",
            where=where,
            next_action="leave output_key out",
        )
    if key not in outputs:
        raise ArgumentError(
            f"output_key={key!r}, the module gives {named_list(sorted(outputs), most=9)}"
            f"{nearest(key, outputs)}",
            where=where,
        )
    return outputs[key]


def told(structure: Structure) -> str:
    """``float32 [None, 224, 224, 3]``, or the same by name, for people."""
    if isinstance(structure, Mapping):
        return "{" + ", ".join(f"{k}: {told(v)}" for k, v in sorted(structure.items())) + "}"
    if isinstance(structure, list | tuple):
        return "[" + ", ".join(told(item) for item in structure) + "]"
    return f"{structure.dtype.name} {_sides(structure.shape)}"


def recorded(outputs: Structure) -> Structure:
    """Symbolic outputs as JSON: shapes and dtypes in the same structure."""
    if isinstance(outputs, Mapping):
        return {key: recorded(value) for key, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return [recorded(item) for item in outputs]
    return {"shape": list(outputs.shape), "dtype": outputs.dtype}


def symbolic(record: Structure, inputs: Structure) -> Structure:
    """What :func:`recorded` wrote, as symbolic tensors for a batch like that of ``inputs``."""
    if isinstance(record, list):
        return [symbolic(item, inputs) for item in record]
    if set(record) != {"shape", "dtype"}:
        return {key: symbolic(value, inputs) for key, value in record.items()}
    batch = keras.tree.flatten(inputs)[0].shape[:1]
    return keras.KerasTensor((*batch, *record["shape"][1:]), dtype=record["dtype"])


def _sides(shape: tf.TensorShape) -> str:
    return "of any rank" if shape.rank is None else str(shape.as_list())


def _kind(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return f"a dictionary with {named_list(sorted(map(str, inputs)), most=5)}"
    return f"{len(inputs)} tensors" if isinstance(inputs, list | tuple) else "one tensor"
