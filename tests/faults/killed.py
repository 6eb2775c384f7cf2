"""A small training that is killed by SIGKILL again and again: ``python killed.py FOLDER``.

TensorFlow is imported once and no operation runs before the fork, so that a session costs a
second. Functions run eagerly, which saves the tracing and changes nothing of what is saved and
resumed; ``make soak`` kills the real command. Prints JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tiny
from absl import logging

import tltf
from tltf import rundir, sealed, storage, tensorfile
from tltf.models import saved
from tltf.rundir import RunDir
from tltf.serving import publish

KILLS, SEED, SAVE_STEPS = 20, 7, 2
PLAN = (
    tltf.Phase("head", 1, 1e-2, unfreeze="none"),
    tltf.Phase("tune", 2, 3e-3, unfreeze="last:1", batch_norm="adapt", optimizer="adamw",
               weight_decay=1e-3),
)  # fmt: skip
LABELS = ("head", "border", "tune", "validation", "commit", "evaluation", "export")


class Killer(keras.callbacks.Callback):
    """Notes every event and kills this very process at the n-th of one kind."""

    def __init__(self, folder: Path, label: str, n: int) -> None:
        super().__init__()
        # Within an object: what a callback holds as plain attributes is saved and put back.
        steps = os.open(folder / "steps.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.own = SimpleNamespace(folder=folder, label=label, left=n, steps=steps,
                                   counts=Counter())  # fmt: skip

    def event(self, label: str) -> None:
        self.own.counts[label] += 1
        if label == self.own.label:
            self.own.left -= 1
            if self.own.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _phase(self) -> str:
        return "head" if len(self.model.trainable_variables) == 2 else "tune"

    def on_train_begin(self, logs: Any = None) -> None:
        if self._phase() == "tune":
            self.event("border")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        os.write(self.own.steps, b".")
        self.event(self._phase())

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.event("validation")

    def on_train_end(self, logs: Any = None) -> None:
        values = [v.numpy().tobytes() for v in self.model.optimizer.variables]
        (self.own.folder / f"{self._phase()}.optimizer").write_text(digest(values))


def digest(values: list[bytes]) -> str:
    return hashlib.sha256(b"".join(values)).hexdigest()


def session(folder: Path, label: str, n: int) -> None:
    """Training, weights, report and export, as far as they go before the kill."""
    tf.config.run_functions_eagerly(True)
    killer = Killer(folder, label, n)
    write = storage.write_pieces

    def written(*arguments: Any) -> None:
        killer.event("commit")
        write(*arguments)

    storage.write_pieces = written
    evaluate = keras.Model.evaluate
    keras.Model.evaluate = lambda self, *a, **k: evaluate(self, *a, callbacks=[killer], **k)
    with rundir.opened(folder / "run") as run:
        model = tiny.classifier(dropout=0.2, head_dropout=0.2)
        kernel = model.get_layer("head").get_layer("logits").kernel
        kernel.assign(np.random.default_rng(0).normal(0, 0.1, kernel.shape))
        result = tltf.fit_phases(
            model,
            PLAN,
            tiny.dataset(12),
            validation=tiny.dataset(8, seed=1),
            callbacks=[keras.callbacks.EarlyStopping("loss", patience=9), killer],
            folder=run.path,
            resumed=lambda position: run.record(resumes=[*run.stage()["resumes"], position]),
            save_every=f"{SAVE_STEPS}steps",
            progress=False,
        )
        with sealed.committed(run.weights) as weights:
            saved.save_model(weights, model)
        killer.event("evaluation")
        x, y = tiny.arrays(16, seed=2)
        logits = np.asarray(model(x, training=False))
        accuracy = float((logits.argmax(1) == y.argmax(1)).mean())
        with sealed.committed(run.report) as report:
            storage.write_json(report / "report.json", {"accuracy": accuracy})
        killer.event("export")
        run.export.mkdir(exist_ok=True)
        version = storage.sibling(run.export / "version")
        version.mkdir()
        (version / "saved_model.pb").write_bytes(logits.tobytes())
        publish.commit(version, run.export)
        run.record(finished=True, steps=result.steps_done)
    (folder / "counts.json").write_text(json.dumps(killer.own.counts))


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def outcome(folder: Path) -> dict[str, Any]:
    """Hashes of everything that must be the same, and how it came about."""
    run = RunDir(folder / "run")
    tensors, _ = tensorfile.read_tensors(run.weights / "model.safetensors")
    rows = [json.loads(line) for line in run.history.read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]
    return {
        "weights": digest([a.tobytes() for a in tensors.values()]),
        "optimizer": [(folder / f"{p.name}.optimizer").read_text() for p in PLAN],
        "history": kept,
        "report": storage.read_json(run.report / "report.json"),
        "export": (publish.newest(run.export) / "saved_model.pb").read_bytes().hex(),
        "steps": run.stage()["steps"],
    }


def killed_run(folder: Path, counts: dict[str, int], generator: random.Random) -> dict[str, Any]:
    folder.mkdir()
    kills: list[str] = []
    ended = -1
    for _ in range(generator.randint(1, 3)):
        label = generator.choice(LABELS)
        n = generator.randint(1, counts[label])
        ended = child(lambda label=label, n=n: session(folder, label, n))
        if ended == 0:  # there were fewer such events left
            break
        kills.append(label)
    if ended:
        ended = child(lambda: session(folder, "", 0))
    return {
        "kills": kills,
        "ended": ended,
        "outcome": outcome(folder) if ended == 0 else None,
        "executed": (folder / "steps.log").stat().st_size,
        "resumes": RunDir(folder / "run").stage()["resumes"],
        "litter": [p.name for p in folder.rglob(f"{storage.TEMPORARY}*")],
    }


def main(place: Path) -> None:
    logging.set_verbosity(logging.ERROR)
    place.mkdir(exist_ok=True)
    whole = place / "whole"
    whole.mkdir()
    if child(lambda: session(whole, "", 0)):
        sys.exit("the uninterrupted run failed")
    counts = json.loads((whole / "counts.json").read_text())
    generator, runs = random.Random(SEED), []
    while sum(len(run["kills"]) for run in runs) < KILLS:
        runs.append(killed_run(place / str(len(runs)), counts, generator))
    planned = (whole / "steps.log").stat().st_size
    used = sum(resource.getrusage(who)[0] + resource.getrusage(who)[1] for who in (-1, 0))
    print(f"{used:.0f} s of processor", file=sys.stderr)
    print(json.dumps({"whole": outcome(whole), "planned": planned, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
