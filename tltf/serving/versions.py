"""The newest published version in memory, exchanged for a newer one while requests go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import json_format

from tltf import storage
from tltf.errors import InputMissingError
from tltf.serving import publish
from tltf.serving.rest import RestError

POLL_SECONDS = 1.0
KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Version:
    """One loaded SavedModel."""

    number: int
    folder: Path
    loaded: Any
    fields: dict[str, Any]

    def signature(self, name: str) -> Any:
        """Raises RestError when there is no such signature."""
        if name not in self.loaded.signatures:
            raise RestError(
                400,
                f'Serving signature name: "{name}" not found in signature def; it has'
                f" {', '.join(sorted(self.loaded.signatures))}",
            )
        return self.loaded.signatures[name]

    def specs(self, name: str) -> dict[str, tf.TensorSpec]:
        """The inputs of a signature."""
        return dict(self.signature(name).structured_input_signature[1])

    def call(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Raises:
          RestError: 400, the graph refused the inputs.
        """
        try:
            found = self.signature(name)(**{k: tf.constant(v) for k, v in inputs.items()})
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            first = (str(error).strip().splitlines() or ["the graph refused the inputs"])[0]
            raise RestError(400, first) from error
        return {key: value.numpy() for key, value in found.items()}

    def signature_def(self) -> dict[str, Any]:
        """The signatures as JSON, as TF Serving's metadata has them."""
        # seam: tensor_names in elsewhere reads the same message.
        from tensorflow.core.protobuf import saved_model_pb2

        data = (self.folder / "saved_model.pb").read_bytes()
        graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
        return {
            name: json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, message in graph.signature_def.items()
        }


class Versions:
    """Watches a folder of versions; requests get the newest that is ready.

    A new version is loaded and warmed up beside the old one, then takes its place by one
    assignment: a request that has begun ends on the version it began with.

    Args:
      folder: of versions, or one version folder, which is then served alone.
      seconds: between two looks at the folder.
    """

    def __init__(self, folder: Path, *, seconds: float = POLL_SECONDS) -> None:
        self.folder = folder
        self.seconds = seconds
        self.states: dict[int, str] = {}
        self._ready: dict[int, Version] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tltf-versions", daemon=True)
        self.look()
        if not self._ready:
            raise InputMissingError(
                "no version to serve",
                where=folder,
                next_action="publish one: tltf export --run=RUN --to=DIR",
            )

    def start(self) -> None:
        """Begins to look for newer versions."""
        self._thread.start()

    def stop(self) -> None:
        """Ends looking; what is loaded stays."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def get(self, number: int | None = None) -> Version:
        """The newest version, or one of those in memory.

        Raises:
          RestError: 404, not in memory.
        """
        ready = self._ready
        if number is None:
            return ready[max(ready)]
        if number not in ready:
            raise RestError(404, f"Servable not found for request: Specific({number})")
        return ready[number]

    def look(self) -> None:
        """Loads the newest version if it is not in memory, and forgets the oldest ones."""
        single = (self.folder / "saved_model.pb").is_file()
        found = [1] if single else publish.versions(self.folder)
        newest = found[-1] if found else None
        if newest is None or self.states.get(newest) == "failed":
            return
        if newest in self._ready:
            # A newer one that was taken away is taken back: the one before answers again.
            self._set({n: v for n, v in self._ready.items() if n <= newest})
            return
        folder = self.folder if single else self.folder / str(newest)
        try:
            version = load_version(folder, newest)
        except Exception as error:
            # A server outlives a bad version: the one before goes on answering.
            logging.error("version %d cannot be served: %s", newest, error)
            self.states[newest] = "failed"
            return
        self._set({**self._ready, newest: version})

    def _set(self, ready: dict[int, Version]) -> None:
        kept = dict(sorted(ready.items())[-KEPT:])
        failed = {n for n, state in self.states.items() if state == "failed"}
        known = {n: "failed" if n in failed else "END" for n in self.states}
        self.states = {**known, **dict.fromkeys(kept, "AVAILABLE")}
        self._ready = kept

    def _watch(self) -> None:
        while not self._stopped.wait(self.seconds):
            try:
                self.look()
            except OSError as error:
                logging.error("cannot look into %s: %s", self.folder, error)


def load_version(folder: Path, number: int) -> Version:
    """Loads a SavedModel and lets it answer its sample, so that the first request is fast."""
    loaded = tf.saved_model.load(str(folder))
    path = folder / "assets" / "tltf.json"
    fields = storage.read_json(path) if path.is_file() else {}
    version = Version(number=number, folder=folder, loaded=loaded, fields=fields)
    warm(version)
    return version


def warm(version: Version, *, clock: Callable[[], float] = time.monotonic) -> float:
    """Answers a made-up row and returns the seconds that it took."""
    started = clock()
    specs = version.specs("serving_default")
    if len(specs) == 1 and next(iter(specs.values())).dtype == tf.string:
        version.call("serving_default", {next(iter(specs)): np.array([b""], object)})
    return clock() - started
