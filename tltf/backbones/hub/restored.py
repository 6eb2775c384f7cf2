"""A SavedModel, restored: what it takes and gives, what it trains, what it penalises.

The published interface of a *reusable SavedModel*: an object that is called with ``inputs``
and perhaps ``training``, with ``variables``, ``trainable_variables`` and
``regularization_losses``. A SavedModel without such an object has signatures at most, and can
be used but not trained.

seam: ``tensorflow.core.protobuf.saved_model_pb2``, to tell a TF1 module without running it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tltf.errors import ArgumentError, DataError, InputMissingError, named_list, nearest

GRAPH = "saved_model.pb"
# What XLA cannot compile: strings, tables, decoding, and outputs whose shape depends on values.
_NOT_COMPILED = re.compile(
    r"Lookup|HashTable|String|Regex|Unicode|Decode|Encode|AsString|Ragged|Sparse|Dataset"
    r"|Iterator|PyFunc|^Unique|^Where$|^Print|ReadFile|WriteFile|Summary"
)
# Strings that do not reach a computation.
_TEXT_ONLY = ("Const", "Assert", "NoOp")


@dataclass(frozen=True, kw_only=True)
class RestoredModule:
    """What a SavedModel offers.

    Attributes:
      restored: the loaded object; it must live as long as its functions.
      function: the callable behind it.
      takes: every structure of ``tf.TensorSpec`` that it was traced for; the first one is told.
      signature_only: whether only a signature is called: it can be used, and not trained.
      keyword: for a signature with one input, that input's name; else empty.
      training: the values of ``training`` that it was traced for, empty without such argument.
      variables: all numeric ones, in the module's own order, with unique names.
      trainable: names of those that may train.
      penalties: pairs of a variable's name and the loss that belongs to it.
      compilable: whether XLA can compile it, from a scan of its operations.
    """

    restored: Any
    function: Callable[..., Any]
    takes: tuple[Any, ...]
    signature_only: bool
    keyword: str
    training: frozenset[bool]
    variables: dict[str, tf.Variable]
    trainable: frozenset[str]
    penalties: tuple[tuple[str, Callable[[], tf.Tensor]], ...]
    compilable: bool

    def __call__(self, inputs: Any, *, training: bool) -> Any:
        """Runs it; ``training`` is passed if the module knows that value."""
        if self.signature_only:
            named = inputs if isinstance(inputs, dict) else {self.keyword: inputs}
            found = self.function(**named)
            return next(iter(found.values())) if len(found) == 1 else found
        if not self.training:
            return self.function(inputs)
        known = training if training in self.training else next(iter(self.training))
        return self.function(inputs, training=known)


def restore(folder: Path, *, signature: str | None = None) -> RestoredModule:
    """Loads the SavedModel in ``folder``. It is code, and may do whatever a graph can.

    Args:
      folder: with ``saved_model.pb``.
      signature: use this signature instead of the callable object; then it cannot be trained.

    Raises:
      InputMissingError: no SavedModel there.
      DataError: a TF1 module, or one that cannot be loaded or called.
      ArgumentError: there is no such signature.
    """
    check_format(folder)
    return _interpreted(_loaded(folder, _replicated_statistics), signature, folder)


def restore_into(
    folder: Path, held: Mapping[str, tf.Variable], *, signature: str | None = None
) -> RestoredModule:
    """As :func:`restore`, with variables that exist already: an optimizer may know them.

    The loader makes the variables of a folder always in the same order, so a first load tells
    which is which and a second one is given those of ``held``, into which it puts the values.
    """
    check_format(folder)
    made: list[Any] = []

    def noted(create: Callable[..., Any], **options: Any) -> Any:
        made.append(create(**options))
        return made[-1]

    first = _interpreted(_loaded(folder, noted), signature, folder)
    names = {id(variable): name for name, variable in first.variables.items()}
    given = iter([held.get(names.get(id(variable), "")) for variable in made])

    def taken(create: Callable[..., Any], **options: Any) -> Any:
        variable = next(given)
        return create(**options) if variable is None else variable

    return _interpreted(_loaded(folder, taken), signature, folder)


def _loaded(folder: Path, creator: Callable[..., Any]) -> Any:
    try:
        with tf.init_scope(), tf.variable_creator_scope(creator):
            return tf.saved_model.load(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot load the SavedModel: {first}",
            where=folder,
            next_action="get the module anew",
        ) from error


def _interpreted(restored: Any, signature: str | None, folder: Path) -> RestoredModule:
    if callable(restored) and signature is None:
        return _from_object(restored, folder)
    return _from_signature(restored, signature or "serving_default", folder)


def check_format(folder: Path) -> None:
    """Raises unless ``folder`` holds a SavedModel of TensorFlow 2; nothing is run."""
    path = folder / GRAPH
    if (folder / "tfhub_module.pb").is_file():
        raise _of_tf1(folder)
    if not path.is_file():
        raise InputMissingError(
            f"there is no {GRAPH}, so this is no SavedModel",
            where=folder,
            next_action="name the folder that holds it",
        )
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError, which has no public name
        raise DataError(
            f"{GRAPH} is damaged", where=folder, next_action="get the module anew"
        ) from error
    if not any(graph.object_graph_def.nodes for graph in model.meta_graphs):
        raise _of_tf1(folder)


def _of_tf1(folder: Path) -> DataError:
    return DataError(
        "this is a module of TensorFlow 1, whose variables cannot be trained here",
        where=folder,
        next_action="take its TF2 SavedModel (the publisher's page has the version number), or"
        " export it anew with tf.saved_model.save",
    )


def _replicated_statistics(create: Callable[..., Any], **options: Any) -> Any:
    """Each replica updates its own statistics and a read gives their mean.

    As stored they have no aggregation, and would drift apart on the replicas without a word.
    """
    if tf.distribute.has_strategy() and not options.get("trainable", True):
        floating = tf.as_dtype(options.get("dtype") or tf.float32).is_floating
        options["synchronization"] = tf.VariableSynchronization.ON_READ
        options["aggregation"] = (
            tf.VariableAggregation.MEAN if floating
            else tf.VariableAggregation.ONLY_FIRST_REPLICA
        )  # fmt: skip
    return create(**options)


def _from_object(restored: Any, folder: Path) -> RestoredModule:
    function = restored.__call__
    traces = list(getattr(function, "concrete_functions", ()))
    if not traces:
        raise DataError(
            "the object can be called, but was saved without a traced call",
            where=folder,
            next_action="call it once under tf.function before tf.saved_model.save",
        )
    names = list(function.function_type.parameters)
    takes, modes = [], set()
    for trace in traces:
        positional, keywords = trace.structured_input_signature
        given = dict(zip(names, positional, strict=False)) | keywords
        takes.append(given[names[0]])
        extra = [n for n in names[1:] if _has_tensors(given.get(n)) and n != "training"]
        if extra or not _has_tensors(given[names[0]]):
            raise DataError(
                f"its call takes {named_list(names)}, expected one argument with all inputs and"
                " perhaps training",
                where=folder,
                next_action="pass signature=... to use one of its signatures",
            )
        if isinstance(given.get("training"), bool):
            modes.add(given["training"])
        elif _has_tensors(given.get("training")):
            modes |= {True, False}
    variables = _variables(restored, traces)
    listed = getattr(restored, "trainable_variables", None)
    trains = {id(v) for v in listed} if isinstance(listed, Sequence) else None
    return RestoredModule(
        restored=restored,
        function=function,
        takes=tuple(_unique(takes)),
        signature_only=False,
        keyword="",
        training=frozenset(modes),
        variables=variables,
        trainable=frozenset(
            name for name, v in variables.items()
            if v.trainable and (trains is None or id(v) in trains)
        ),
        penalties=tuple(_penalties(restored, variables)),
        compilable=_compilable(traces),
    )  # fmt: skip


def _from_signature(restored: Any, signature: str, folder: Path) -> RestoredModule:
    known = getattr(restored, "signatures", {})
    if signature not in known:
        offered = f"it has {named_list(known)}" if known else "it has none"
        raise ArgumentError(
            f"no signature {signature!r}, {offered}{nearest(signature, known)}",
            where=folder,
            next_action="pass signature=... with one of these" if known else "",
        )
    trace = known[signature]
    _, inputs = trace.structured_input_signature
    one = next(iter(inputs)) if len(inputs) == 1 else ""
    return RestoredModule(
        restored=restored,
        function=trace,
        takes=(inputs[one] if one else dict(inputs),),
        signature_only=True,
        keyword=one,
        training=frozenset(),
        variables=_variables(restored, [trace]),
        trainable=frozenset(),
        penalties=(),
        compilable=_compilable([trace]),
    )


def _variables(restored: Any, traces: Iterable[Any]) -> dict[str, tf.Variable]:
    """The module's numeric variables by name: as it lists them, else as its calls use them.

    ``named_variables`` with keys ``<number>/<path>`` is what our own exports add, since Keras 3
    gives its variables short names of which there are many.
    """
    named = getattr(restored, "named_variables", None)
    if named:
        return {key.partition("/")[2]: named[key] for key in sorted(named)}
    listed = getattr(restored, "variables", None)
    found = list(listed) if isinstance(listed, Sequence) else []
    found += [variable for trace in traces for variable in trace.variables]
    result: dict[str, tf.Variable] = {}
    seen: set[int] = set()
    for variable in found:
        numeric = variable.dtype.is_floating or variable.dtype.is_integer or variable.dtype.is_bool
        if id(variable) in seen or not numeric:
            continue
        seen.add(id(variable))
        result[_unused(variable.name.partition(":")[0], result)] = variable
    return result


def _unused(name: str, taken: Iterable[str]) -> str:
    names, number = set(taken), 1
    candidate = name
    while candidate in names:
        candidate = f"{name}_{number}"
        number += 1
    return candidate


def _penalties(
    restored: Any, variables: dict[str, tf.Variable]
) -> Iterable[tuple[str, Callable[[], tf.Tensor]]]:
    """Each regularisation loss beside the first variable that it reads."""
    names = {id(variable): name for name, variable in variables.items()}
    for loss in getattr(restored, "regularization_losses", None) or ():
        read = [v for trace in getattr(loss, "concrete_functions", ()) for v in trace.variables]
        own = [names[id(v)] for v in read if id(v) in names]
        if own:
            yield own[0], loss


def _compilable(traces: Iterable[Any]) -> bool:
    for trace in traces:
        graph = trace.graph.as_graph_def()
        functions = (node for function in graph.library.function for node in function.node_def)
        for node in (*graph.node, *functions):
            if _NOT_COMPILED.search(node.op):
                return False
            if node.op not in _TEXT_ONLY and any(
                value.type == tf.string.as_datatype_enum for value in node.attr.values()
            ):
                return False
    return True


def _has_tensors(value: Any) -> bool:
    return any(isinstance(item, tf.TensorSpec) for item in tf.nest.flatten(value))


def _unique(structures: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for item in structures:
        if not any(_same(item, other) for other in kept):
            kept.append(item)
    return kept


def _same(one: Any, other: Any) -> bool:
    def facts(structure: Any) -> list[Any]:
        flat = tf.nest.flatten(structure)
        return [(s.shape.as_list() if s.shape.rank is not None else None, s.dtype) for s in flat]

    try:
        tf.nest.assert_same_structure(one, other)
    except (ValueError, TypeError):
        return False
    return facts(one) == facts(other)
