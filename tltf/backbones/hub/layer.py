"""SavedModelLayer: a reusable SavedModel as a Keras 3 layer whose weights are Keras' weights.

A restored function reads the ``tf.Variable`` objects that it was saved with. A Keras variable
that *is* such an object (``keras.Variable(variable)`` takes it over instead of copying) is then
trained, frozen, counted and saved as any other, and the function sees the change.

seam: ``Layer._convert_input_args``: Keras would turn strings into numbers.
seam: ``in_safe_mode`` of the module that defines ``keras.saving.deserialize_keras_object``.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tltf.backbones.hub import handles, parts, signature
from tltf.backbones.hub.parts import ModulePart
from tltf.backbones.hub.restored import RestoredModule, restore, restore_into
from tltf.errors import ArgumentError, DataError, SecurityError, TltfError, named_list
from tltf.spec import check_unfreeze

_TRUSTED = contextvars.ContextVar("trusted", default=False)
MODULE = "module"


class Penalty(keras.Regularizer):
    """The module's own regularisation losses of one variable, added while it trains."""

    def __init__(self, losses: list[Any]) -> None:
        self.losses = losses

    def __call__(self, variable: Any) -> Any:
        """The sum of the losses; they read the variable themselves."""
        return sum(tf.cast(loss(), tf.float32) for loss in self.losses)


@keras.saving.register_keras_serializable(package="tltf")
class SavedModelLayer(keras.layers.Layer):
    """A SavedModel of TF Hub, Kaggle Models or your own as a layer that fine-tunes in Keras 3.

    Everything is as for any layer: weights in ``summary``, ``trainable`` before ``compile``,
    regularisation losses while they train, ``.keras`` and ``.weights.h5`` files, checkpoints,
    export. BatchNorm statistics and Dropout of the module are one switch: they are active in
    training only while *all* of it is trainable, since a graph cannot hold still in part.

    A SavedModel is code. It is loaded because you name it here; a ``.keras`` file that holds
    one is only loaded with ``safe_mode=False``, and carries the module inside.

    Args:
      handle: a folder, a ``.tar.gz``, or a URL that TF Hub resolves.
      trainable: False, True, or a part of it in the words of :class:`tltf.Phase`: ``last:N``,
        ``blocks:a,b``, or ``regex:PATTERN`` on the variables' names (see :attr:`names`).
      output_key: which entry, if the module gives a dictionary; None for all of it.
      signature: use this signature instead of the callable object; it cannot be trained.
      sha256: of the module's files, if you know it; another one is refused.
      recorded: of :meth:`from_config` only.

    Call args:
      inputs: a tensor, or what structure of tensors the module takes.
      training: passed on to the module, see above.

    Raises:
      ArgumentError: ``trainable`` for a module that has signatures only, or that names nothing;
        inputs or ``output_key`` that the module does not know.
      DataError: a module of TF1, or not the one of ``sha256``.
      InputMissingError, DownloadError: no module there.

    Example::

      layer = tltf.SavedModelLayer("https://tfhub.dev/...", trainable=True)
      model = keras.Sequential([keras.Input((224, 224, 3)), layer, keras.layers.Dense(5)])
    """

    def __init__(
        self,
        handle: str | Path,
        *,
        trainable: bool | str = False,
        output_key: str | None = None,
        signature: str | None = None,
        sha256: str | None = None,
        name: str | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        found, module = _loaded(str(handle), signature, sha256, recorded)
        if module and module.signature_only and trainable and not recorded:
            raise ArgumentError(
                "this SavedModel has signatures but no callable object, so it cannot be trained",
                where=found.folder,
                next_action="use trainable=False, or a reusable SavedModel",
            )
        # the module computes in the dtypes that it was traced with, under every policy
        super().__init__(name=name, dtype="float32", autocast=False)
        self._convert_input_args = False
        self.handle, self.folder, self.sha256 = found.handle, found.folder, found.sha256
        self.output_key, self.signature = output_key, signature
        self.module: RestoredModule | None = None
        self._gives = recorded["gives"] if recorded else None
        self.supports_jit = bool(recorded["compilable"]) if recorded else True
        if module is not None:
            self._adopt(module)
        elif recorded:
            self.parts = parts.placeholders(recorded["parts"], path=self.name)
            self._blocks, self.built = list(recorded["blocks"]), True
        self.trainable = trainable is not False
        if isinstance(trainable, str):
            self.unfreeze(trainable)

    def _adopt(self, module: RestoredModule) -> None:
        """Makes the module's variables this layer's."""
        self.module, self.restored = module, module.restored
        self.supports_jit = module.compilable
        made = parts.make_parts(module.variables, module.trainable, path=self.name)
        self.parts, self._blocks = list(made.values()), parts.block_names(made)
        self._add_penalties(module)
        self.built = True

    def _add_penalties(self, module: RestoredModule) -> None:
        by_name = self.names
        grouped: dict[str, list[Any]] = {}
        for name, loss in module.penalties:
            grouped.setdefault(name, []).append(loss)
        for name, losses in grouped.items():
            by_name[name].regularizer = Penalty(losses)

    @property
    def names(self) -> dict[str, keras.Variable]:
        """The module's own names of its variables, such as ``block_1/conv/kernel``."""
        held = [variable for part in self.parts for variable in part.held]
        return dict(zip((name for part in self.parts for name in part.names), held, strict=True))

    @property
    def blocks(self) -> dict[str, list[ModulePart]]:
        """Block names to the parts that hold their variables, bottom to top."""
        found: dict[str, list[ModulePart]] = {}
        for block, part in zip(self._blocks, self.parts, strict=True):
            found.setdefault(block, []).append(part)
        return found

    @property
    def whole(self) -> bool:
        """Whether every variable that can train does; then the module runs in training mode."""
        return self.trainable and all(
            part.trainable and all(variable.trainable for variable in part.trainables)
            for part in self.parts
        )

    def unfreeze(self, which: str) -> list[str]:
        """Makes a part of the module trainable and freezes the rest; compile afterwards.

        Args:
          which: ``none``, ``all``, ``last:N`` blocks, ``blocks:a,b``, or ``regex:PATTERN`` on the
            variables' names.

        Returns:
          The names of the variables that train.

        Raises:
          ArgumentError: malformed, or it matches nothing; the blocks are listed.
        """
        check_unfreeze(which)
        kind, _, rest = which.partition(":")
        blocks = self.blocks
        if kind == "regex":
            chosen = {name for name in self.names if re.search(rest, name)}
        else:
            weighted = [name for name in blocks if any(p.trainables for p in blocks[name])]
            wanted = {"none": [], "all": weighted}.get(kind) if not rest else (
                weighted[-int(rest):] if kind == "last" else [b.strip() for b in rest.split(",")]
            )  # fmt: skip
            chosen = {n for b in wanted or () for p in blocks.get(b, ()) for n in p.names}
        can = {name for part in self.parts for name in part.trainable_names}
        if kind != "none" and not chosen & can:
            raise ArgumentError(
                f"{which!r} selects nothing to train; blocks, bottom to top:"
                f" {named_list(blocks, most=24)}",
                where=self.name,
                next_action="name one of the blocks, or look at layer.names",
            )
        self.trainable = False
        self.trainable = True
        for part in self.parts:
            part.train(chosen)
        return sorted(chosen & can)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See the class; arrays and lists of numbers or texts become tensors."""
        return super().__call__(signature.tensors(inputs), *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """See the class."""
        if self.module is None:
            raise DataError(
                f"the SavedModel with SHA-256 {self.sha256} is not at hand",
                where=self.handle,
                next_action="put it back there",
            )
        given = signature.fitted(inputs, self.module.takes, where=self.name)
        found = self.module(given, training=bool(training) and self.whole)
        return signature.chosen(found, self.output_key, where=self.name)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """By tracing; for a module that is still to come, what was recorded."""
        if self.module is None:
            return signature.symbolic(self._gives, inputs)
        found = super().compute_output_spec(inputs, training=training)
        self._gives = signature.recorded(found)
        return found

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and what is needed before the module is at hand."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "handle": self.handle,
            "sha256": self.sha256,
            "output_key": self.output_key,
            "signature": self.signature,
            "gives": self._gives,
            "compilable": self.supports_jit,
            "blocks": self._blocks,
            "parts": [part.described() for part in self.parts],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SavedModelLayer:
        """The layer, with the module of the handle if that is still the same one.

        Raises:
          SecurityError: in Keras' safe mode.
        """
        if _in_safe_mode() and not _TRUSTED.get():
            raise SecurityError(
                f"the model holds a SavedModel ({config['handle']}), which is code",
                where="keras.saving",
                next_action="pass safe_mode=False to load_model if you trust the file",
            )
        named = {key: config[key] for key in ("sha256", "output_key", "signature", "name")}
        layer = cls(config["handle"], trainable=config["trainable"], recorded=config, **named)
        for part, described in zip(layer.parts, config["parts"], strict=True):
            part.train(described["trains"])
        return layer

    def save_assets(self, folder: str) -> None:
        """Writes the module, as it is now, into a ``.keras`` file."""
        if self.module is None:
            raise DataError("the SavedModel is not at hand", where=self.handle)
        with tf.init_scope():
            restored = self.module.restored
            signatures = getattr(restored, "signatures", None)
            tf.saved_model.save(restored, str(Path(folder, MODULE)), signatures)

    def load_assets(self, folder: str) -> None:
        """Takes the module of a ``.keras`` file, unless the very same is at hand already."""
        if self.module is not None:
            return
        held = {name: variable.value for name, variable in self.names.items()}
        module = restore_into(Path(folder, MODULE), held, signature=self.signature)
        if {id(v) for v in module.variables.values()} != {id(v) for v in held.values()}:
            raise DataError("the file's SavedModel has other variables", where=self.handle)
        self.module, self.restored = module, module.restored
        self._add_penalties(module)


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """While it is open, architectures may name SavedModels: run folders that tltf wrote.

    A module is then taken from the place, and with the SHA-256, that the run recorded.
    """
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def check_at_hand(model: keras.Model) -> None:
    """Raises DataError if a SavedModel of the model is missing or altered."""
    # seam: Layer._flatten_layers
    for layer in model._flatten_layers():
        if isinstance(layer, SavedModelLayer) and layer.module is None:
            handles.resolve(layer.handle, sha256=layer.sha256, download=False)
            raise DataError("the SavedModel cannot be loaded", where=layer.handle)


def _loaded(
    handle: str, signature: str | None, sha256: str | None, recorded: Mapping[str, Any] | None
) -> tuple[handles.Resolved, RestoredModule | None]:
    """The module of a handle. One that was recorded is not downloaded, and may be missing."""
    try:
        found = handles.resolve(handle, sha256=sha256, download=recorded is None)
        return found, restore(found.folder, signature=signature)
    except TltfError:
        if recorded is None:
            raise
        return handles.Resolved(handle=handle, folder=Path(), sha256=sha256 or ""), None


def _in_safe_mode() -> bool:
    module = sys.modules[keras.saving.deserialize_keras_object.__module__]
    return bool(module.in_safe_mode())


def restored_objects(model: keras.Model) -> list[Any]:
    """The restored objects of a model's SavedModels, for an export to keep their tables."""
    # seam: Layer._flatten_layers
    layers = [x for x in model._flatten_layers() if isinstance(x, SavedModelLayer)]
    return [layer.restored for layer in layers if layer.module is not None]
