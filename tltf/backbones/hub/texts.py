"""``hub:`` modules that read texts: BERT encoders with their vocabulary, and string modules.

The conventions: ``{input_word_ids, input_mask, input_type_ids}``, int32 ``[B, L]``, to
``{pooled_output, sequence_output}``, with ``vocab_file`` and ``do_lower_case`` beside the call;
or strings ``[B]`` to vectors ``[B, D]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tltf.backbones.catalog import Choice
from tltf.backbones.hub.codepoints import CodePointTokens, Strings
from tltf.backbones.hub.images import choose_features
from tltf.backbones.hub.layer import SavedModelLayer
from tltf.backbones.network import Backbone, mark
from tltf.backbones.tokens import PoolTokens, Tokens
from tltf.data.wordpiece import PAD, SEP, read_vocabulary
from tltf.errors import ArgumentError, DataError

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
SEQUENCE, POOLED = "sequence_output", "pooled_output"
MAX_LENGTH = 512


@keras.saving.register_keras_serializable(package="tltf")
class EncoderInputs(keras.layers.Layer):
    """Token ids and their mask as the dictionary that BERT modules take.

    Args:
      separator: the id of [SEP]; what is behind the first one is the second text.
      padding: the id of [PAD].
      keys: those that the module takes.
      length: tokens that the module insists on, 0 for any number.

    Call args:
      ids: int ``[B, L]``, L <= length.
      present: float ``[B, L]``, 1 for tokens, 0 for padding.

    Returns:
      int32 ``[B, length]`` by key.
    """

    def __init__(
        self, separator: int, padding: int, keys: list[str], length: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.separator, self.padding = separator, padding
        self.keys, self.length = list(keys), length

    def call(self, ids: Any, present: Any) -> Any:
        """See the class."""
        ids, present = ops.cast(ids, "int32"), ops.cast(present, "int32")
        if self.length:
            rest = [[0, 0], [0, self.length - ops.shape(ids)[1]]]
            ids = ops.pad(ids, rest, constant_values=self.padding)
            present = ops.pad(present, rest)
            ids = ops.reshape(ids, (-1, self.length))
            present = ops.reshape(present, (-1, self.length))
        ends = ops.cast(ops.equal(ids, self.separator), "int32")
        behind = ops.cast(ops.cumsum(ends, axis=1) - ends > 0, "int32") * present
        found = {WORDS: ids, MASK: present, TYPES: behind}
        return {key: found[key] for key in self.keys}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "separator": self.separator,
            "padding": self.padding,
            "keys": self.keys,
            "length": self.length,
        }


def reads_text(layer: SavedModelLayer) -> bool:
    """Whether the module takes token ids or strings."""
    return encoder_spec(layer) is not None or _takes_strings(layer)


def build(layer: SavedModelLayer, choice: Choice, *, pooling: str) -> Backbone:
    """The backbone around a module that reads texts.

    Args:
      layer: the module, of which nothing is frozen.
      choice: the name that was asked for.
      pooling: of an encoder's tokens: ``mean``, ``max``, ``cls``, or ``pooled``: its own.

    Returns:
      int32 ids ``[B, L]`` to float32 ``[B, D]``; ``.tokenizer`` gives the ids.

    Raises:
      DataError: an encoder without a vocabulary, or one that gives no vectors.
      ArgumentError: an output that it does not give.
    """
    ids = keras.Input((None,), dtype="int32", name="tokens")
    wanted = encoder_spec(layer)
    if wanted is None:
        present = CodePointTokens(name="mask")(ids)
        strings = Strings(name="strings")(ids, present)
        choose_features(layer, strings, choice)
        x = layer(strings)
    else:
        x = _encoded(layer, ids, wanted, pooling=pooling)
    if len(x.shape) != 2 or not x.shape[-1]:
        raise DataError(f"the module gives {list(x.shape)}, expected [B, D]", where=choice.text)
    return Backbone(ids, mark(x, family=""), name="hub")


def encoder_spec(layer: SavedModelLayer) -> Mapping[str, Any] | None:
    """The dictionary of specs with the keys of a BERT encoder, if the module takes one."""
    for wanted in layer.module.takes if layer.module else ():
        if isinstance(wanted, Mapping) and WORDS in wanted and set(wanted) <= {WORDS, MASK, TYPES}:
            return wanted
    return None


def _takes_strings(layer: SavedModelLayer) -> bool:
    takes = layer.module.takes if layer.module else ()
    return any(
        not isinstance(x, Mapping | list | tuple) and x.dtype.name == "string" and x.shape.rank == 1
        for x in takes
    )


def _encoded(layer: SavedModelLayer, ids: Any, wanted: Mapping[str, Any], *, pooling: str) -> Any:
    pieces = vocabulary(layer)
    fixed = wanted[WORDS].shape[1] or 0
    tokens = Tokens(
        "\n".join(pieces), lowers_case(layer, pieces), fixed or _positions(layer), name="mask"
    )
    inputs = EncoderInputs(
        pieces.index(SEP), pieces.index(PAD), sorted(wanted), fixed, name="encoder_inputs"
    )
    given = inputs(ids, tokens(ids))
    outputs = layer.compute_output_spec(given)
    if isinstance(outputs, Mapping):
        layer.output_key = POOLED if pooling == "pooled" or SEQUENCE not in outputs else SEQUENCE
    x = layer(given)
    if len(x.shape) == 3 and pooling == "pooled":
        raise ArgumentError(
            f"pooling='pooled' with the output {layer.output_key}", where="--pooling"
        )
    return PoolTokens(pooling, name="pool_tokens")(x, given[MASK]) if len(x.shape) == 3 else x


def vocabulary(layer: SavedModelLayer) -> tuple[str, ...]:
    """The pieces of the module's ``vocab_file``, or of ``assets/vocab.txt``.

    Raises:
      DataError: neither is there.
    """
    asset = getattr(layer.restored, "vocab_file", None)
    found = getattr(asset, "asset_path", None)
    path = Path(found.numpy().decode()) if found is not None else None
    if path is None:
        path = layer.folder / "assets" / "vocab.txt"
    if not path.is_file():
        raise DataError(
            "this encoder has no vocabulary (vocab_file), so nothing tells its token ids",
            where=layer.handle,
            next_action="use a module that carries one, or tltf.SavedModelLayer with own ids",
        )
    return read_vocabulary(path)


def lowers_case(layer: SavedModelLayer, pieces: tuple[str, ...]) -> bool:
    """The module's ``do_lower_case``; without it, whether no piece has an upper-case letter."""
    said = getattr(layer.restored, "do_lower_case", None)
    if said is not None:
        return bool(np.asarray(said))
    plain = (piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]")))
    return all(piece == piece.lower() for piece in plain)


def _positions(layer: SavedModelLayer) -> int:
    """Rows of the position table, as far as names tell it."""
    for name, variable in layer.names.items():
        if "position" in name and len(variable.shape) == 2:
            return int(variable.shape[0])
    return MAX_LENGTH
