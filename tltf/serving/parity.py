"""The gate before publishing: the SavedModel, reloaded elsewhere, must answer as the trainer did.

What it is compared with does not come from the signatures but from the model itself, called with
``training=False``, and from the evaluation's NumPy functions: a signature that is wrong by itself
(dropout or augmentation left on, another temperature, another order of the labels) is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tltf import storage
from tltf.errors import DataError, named_list
from tltf.serving.decision import Decision, expected
from tltf.serving.elsewhere import Answers
from tltf.serving.intake import Intake
from tltf.serving.signatures import Signatures
from tltf.serving.writing import LABELS, labels_text
from tltf.training import freezing

MAX_DIFFERENCE = 1e-4
MAX_DIFFERENCE_HALF = 2e-2
EXAMPLES = 32
INVENTED = 4

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the gate found: the largest difference, over how many rows, by which loaders."""

    difference: float
    allowed: float
    examples: int
    loaders: tuple[str, ...]

    def sentence(self) -> str:
        """What was compared and how close it was."""
        return (
            f"compared on {self.examples} inputs ({', '.join(self.loaders)}): largest difference"
            f" {self.difference:.1e}, allowed {self.allowed:g}"
        )


def check(
    servable: Path,
    model: keras.Model,
    served: Signatures,
    *,
    rows: Sequence[bytes],
    logits: np.ndarray | None = None,
    answers: Answers,
    keep_mismatch: Path | None = None,
) -> Parity:
    """Compares ``servable`` in fresh processes with the model.

    Args:
      servable: an unpublished SavedModel folder.
      model: what it was made from.
      served: the signatures that it holds.
      rows: held-out inputs; made-up ones are compared when there are none.
      logits: the trainer's own, float32 ``[len(rows), C]``; None computes them here.
      answers: of :func:`tltf.serving.elsewhere.loaders`.
      keep_mismatch: a folder that receives rows and both outputs when they differ.

    Raises:
      DataError: an output differs, labels or order differ, two calls differ, a loader fails.
    """
    rows = list(rows) or served.intake.invented(INVENTED)
    own = trainer_logits(model, served.intake, rows, where=servable)
    logits = own if logits is None else logits
    wanted = expected(logits, served.decision)
    allowed = tolerance(model)
    _check_labels(servable, served)
    answered = answers(servable, served.intake.key, rows)
    worst = 0.0
    for loader, found in answered.items():
        for why, difference in differences(wanted, found, served.decision, allowed=allowed):
            worst = max(worst, difference)
            if why:
                kept = _keep(keep_mismatch, rows, wanted, answered)
                raise _mismatch(f"{why} ({loader})", servable, kept)
    first, second = answered["first call"], answered["second call"]
    for key in first:
        if not np.array_equal(first[key], second[key]):
            kept = _keep(keep_mismatch, rows, wanted, answered)
            raise _mismatch(f"{key} differs between two calls", servable, kept)
    return Parity(difference=worst, allowed=allowed, examples=len(rows), loaders=tuple(answered))


def trainer_logits(
    model: keras.Model, intake: Intake, rows: Sequence[bytes], *, where: object = ""
) -> np.ndarray:
    """Logits float32 ``[n, C]`` of the model in inference, one call for all rows.

    Raises:
      DataError: a row cannot be read, so that there is nothing to compare.
    """
    # Traced: row by row in eager mode each image would build and run a data set of its own.
    x, good = tf.function(intake.read)(tf.constant(list(rows)))
    bad = [i for i, fine in enumerate(np.asarray(good)) if not fine]
    if bad:
        raise DataError(
            f"examples that cannot be read: numbers {named_list(bad)} of {len(rows)}",
            where=where,
            next_action="pass readable examples",
        )
    return np.asarray(tf.cast(model(x, training=False), tf.float32))


def tolerance(model: keras.Model) -> float:
    """What a probability may differ by: 1e-4 in float32 on a CPU, else 2e-2.

    In half precision, and on a GPU, two batches of another size round differently.
    """
    half = any("16" in str(layer.compute_dtype) for layer in freezing.leaves(model))
    other = bool(tf.config.list_physical_devices("GPU"))
    return MAX_DIFFERENCE_HALF if half or other else MAX_DIFFERENCE


def differences(
    wanted: Arrays, found: Arrays, decision: Decision, *, allowed: float
) -> list[tuple[str, float]]:
    """For each output why it is wrong ("" when it is not), and by how much.

    A label or a decision may differ where the numbers behind it are a tie within ``allowed``.
    """
    result = []
    for key in wanted:
        if key not in found:
            result.append((f"{key} is missing", 0.0))
        elif found[key].shape != wanted[key].shape:
            result.append((f"{key} has another shape", 0.0))
        elif wanted[key].dtype.kind == "f":
            # Probabilities are at most 1; a regression's value is compared relatively.
            scale = np.maximum(1.0, np.abs(wanted[key]))
            worst = float(np.max(np.abs(wanted[key] - found[key]) / scale, initial=0.0))
            wrong = not worst <= allowed
            why = f"{key} by {worst:.2g}, expected at most {allowed:g}" if wrong else ""
            result.append((why, worst))
        else:
            # As objects: strings of a fixed width would be cut to the narrower one.
            other = found[key].astype(object) != wanted[key].astype(object)
            count = int((other & ~_ties(wanted, key, decision, allowed)).sum())
            result.append((f"{key} in {count} of {len(other)} rows" if count else "", 0.0))
    return result


def _ties(wanted: Arrays, key: str, decision: Decision, allowed: float) -> np.ndarray:
    if "probabilities" not in wanted:
        return np.zeros(len(wanted[key]), bool)
    if key == "accepted":
        return np.abs(wanted["confidence"] - decision.threshold) <= allowed
    p = wanted["probabilities"]
    if decision.task == "multi_label" and key == "label":
        return np.asarray((np.abs(p - 0.5) <= allowed).any(axis=1))
    best = np.sort(p, axis=1)[:, -2:]
    return best[:, -1] - best[:, 0] <= allowed if p.shape[1] > 1 else np.zeros(len(p), bool)


def _check_labels(servable: Path, served: Signatures) -> None:
    """The label file that clients read is in the order of the graph."""
    path = servable / "assets" / LABELS
    if not path.is_file() or path.read_text("utf-8") != labels_text(served):
        raise _mismatch(f"{LABELS} is not in the order of the model's outputs", servable, "")


def _keep(
    folder: Path | None, rows: Sequence[bytes], wanted: Arrays, answered: Mapping[str, Arrays]
) -> str:
    """Rows, expected and found answers, for the person who looks into it."""
    if folder is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        storage.write_bytes(folder / f"input_{i:03d}", row)
    for name, arrays in {"expected": wanted, **answered}.items():
        values = {k: v.astype(bytes) if v.dtype == object else v for k, v in arrays.items()}
        np.savez(folder / f"{name.replace(' ', '_')}.npz", **values)  # type: ignore[arg-type]
    return f"inputs and both outputs in {folder}"


def _mismatch(what: str, servable: Path, kept: str) -> DataError:
    return DataError(
        f"the exported SavedModel answers differently: {what}",
        where=servable,
        kept="; ".join(filter(None, ("nothing was published", kept))),
        next_action="report this model to tltf",
    )
