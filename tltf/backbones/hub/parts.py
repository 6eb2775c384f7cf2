"""The layers that a module was made of, read from the names of its variables.

A restored module computes as one function, but its variables keep the names of the layers
that made them: ``block_3_expand/kernel``. Each such layer becomes a :class:`ModulePart`, which
only holds variables, so that freezing, learning rates by block and ``summary`` see the module
as they see any network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tltf.backbones import blocks
from tltf.backbones.blocks import LayerFacts

STATISTICS = ("moving_mean", "moving_variance")
_NUMBERED = re.compile(r"\d")


class ModulePart(keras.layers.Layer):
    """The variables of one layer of a restored module; the module computes with them.

    Args:
      name: the layer's name within the module, which may be nested: ``layer_0/query``.
      variables: name within the layer -> the restored variable, which is aliased, not copied.
      trainable: names of those that may ever train.
      path: where it stands, for the variables' paths.
    """

    def __init__(
        self,
        name: str,
        variables: Mapping[str, Any],
        *,
        trainable: Collection[str],
        path: str,
    ) -> None:
        super().__init__(name=name.replace("/", "_"), dtype="float32")
        self.scope, self.own_names = name, tuple(variables)
        self.is_batch_norm = any(key in STATISTICS for key in variables)
        self._can_train = frozenset(trainable)
        with keras.name_scope(path), keras.name_scope(self.name):
            # a list of variables that is an attribute is tracked, saved and counted
            self.held = [
                _aliased(key, variable, trainable=key in trainable)
                for key, variable in variables.items()
            ]
        self.built = True

    @property
    def names(self) -> list[str]:
        """The module's names of the variables, in the order of ``held``."""
        return [full_name(self.scope, own) for own in self.own_names]

    @property
    def trainable_names(self) -> list[str]:
        """Of :attr:`names`, those that may ever train."""
        pairs = zip(self.own_names, self.names, strict=True)
        return [name for own, name in pairs if own in self._can_train]

    @property
    def trainables(self) -> list[keras.Variable]:
        """The variables that may ever train."""
        pairs = zip(self.own_names, self.held, strict=True)
        return [variable for own, variable in pairs if own in self._can_train]

    def train(self, names: Collection[str]) -> None:
        """Trains those of ``names`` that are here and may train, and nothing else."""
        trains = [name in names for name in self.trainable_names]
        self.trainable = any(trains)
        if any(trains):
            for variable, wanted in zip(self.trainables, trains, strict=True):
                variable.trainable = wanted

    def described(self) -> dict[str, Any]:
        """What :func:`placeholders` needs, as JSON."""
        names = self.trainable_names
        trains = zip(names, self.trainables, strict=True)
        return {
            "scope": self.scope,
            "variables": [
                [own, list(v.shape), v.dtype, own in self._can_train]
                for own, v in zip(self.own_names, self.held, strict=True)
            ],
            "trains": [name for name, v in trains if self.trainable and v.trainable],
        }

    def call(self, inputs: Any) -> Any:
        """Nothing of its own: the module computes as a whole."""
        return inputs


def _aliased(name: str, variable: Any, *, trainable: bool) -> keras.Variable:
    alias = keras.Variable(
        variable,
        dtype=variable.dtype.name,
        trainable=trainable,
        autocast=False,
        name=name.replace("/", "_"),
    )
    if alias.value is not variable:
        # a copy would train and change nothing
        raise RuntimeError(f"Keras copied the variable {name} instead of taking it over")
    return alias


def make_parts(
    variables: Mapping[str, tf.Variable], trainable: frozenset[str], *, path: str
) -> dict[str, ModulePart]:
    """One part per layer, by the layer's name within the module, in the module's order."""
    grouped: dict[str, dict[str, tf.Variable]] = {}
    trains: dict[str, set[str]] = {}
    for name, variable in variables.items():
        scope, _, own = name.rpartition("/")
        grouped.setdefault(scope or own, {})[own] = variable
        if name in trainable:
            trains.setdefault(scope or own, set()).add(own)
    return {
        scope: ModulePart(scope, held, trainable=trains.get(scope, ()), path=path)
        for scope, held in grouped.items()
    }


def placeholders(described: Sequence[Mapping[str, Any]], *, path: str) -> list[ModulePart]:
    """Parts with zeros, until the module that belongs to them is read."""
    made = []
    for part in described:
        scope, rows = part["scope"], part["variables"]
        variables = {
            own: tf.Variable(tf.zeros(shape, dtype), name=full_name(scope, own))
            for own, shape, dtype, _ in rows
        }
        can_train = [own for own, _, _, trains in rows if trains]
        made.append(ModulePart(scope, variables, trainable=can_train, path=path))
    return made


def full_name(scope: str, own: str) -> str:
    """A variable's name within the module; one without a scope is its own."""
    return own if own == scope else f"{scope}/{own}"


def block_names(parts: Mapping[str, ModulePart]) -> list[str]:
    """The block of every part.

    Names of plain layers follow the rules of :mod:`tltf.backbones.blocks`, those of the
    keras.applications family that fits them if one does. In nested names
    (``bert/transformer/layer_0/query``) the first numbered component is the block, and what
    stands around the numbered ones goes by its first component.
    """
    scopes = _without_common([scope.split("/") for scope in parts])
    if all(len(scope) == 1 for scope in scopes):
        facts = [
            LayerFacts(scope[0], "", any(len(v.shape) >= 2 for v in part.variables))
            for scope, part in zip(scopes, parts.values(), strict=True)
        ]
        return blocks.assign(facts, blocks.recognised(facts))
    return [_nested_block(scope) for scope in scopes]


def _without_common(scopes: list[list[str]]) -> list[list[str]]:
    while len({scope[0] for scope in scopes}) == 1 and all(len(scope) > 1 for scope in scopes):
        scopes = [scope[1:] for scope in scopes]
    return scopes


def _nested_block(scope: list[str]) -> str:
    numbered = next((name for name in scope if _NUMBERED.search(name)), None)
    if numbered is not None:
        return numbered
    return "embeddings" if "embed" in scope[0] else scope[0]
