"""What a run leaves when it fails: one error with everything a person needs, in ``error.json``."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import tensorflow as tf

from tltf import rundir, storage
from tltf.errors import InterruptedRun, OutOfMemoryError, TltfError, printable
from tltf.rundir import RunDir
from tltf.training.interrupts import stop_requests
from tltf.training.statefiles import peek


@contextlib.contextmanager
def recorded(run: RunDir) -> Iterator[None]:
    """``error.json`` after a failure, and none after a success; signals become errors."""
    rundir.remove(run.error)
    try:
        with stop_requests(), named(run):
            yield
    except TltfError as error:
        error.kept = error.kept or _kept(run)
        _write(run, error.as_dict())
        raise
    except Exception as error:
        bug = TltfError(
            f"this is a bug: {type(error).__name__}: {printable(str(error))[:200]}",
            where="run",
            kept=_kept(run),
            next_action="report error.json",
        )
        _write(run, bug.as_dict())
        raise


@contextlib.contextmanager
def named(run: RunDir) -> Iterator[None]:
    """Signals outside of training, and a lack of memory, as errors of ours."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRun(
            "interrupted",
            signal_number=getattr(error, "signal_number", 2),
            where="outside of training",
            next_action="run the same command again to go on from there",
        ) from error
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        if isinstance(error, TltfError):
            raise
        if "No space left" in str(error):  # TensorFlow's writer has one name for both
            raise storage.storage_error(OSError(errno.ENOSPC, "disk full"), run.path) from error
        raise OutOfMemoryError(
            f"out of memory: {printable(str(error))[:120]}",
            where="run",
            next_action="add --micro_batch=auto, which keeps the batch and goes on from the last"
            " state, or use a smaller --image_size",
        ) from error


def _kept(run: RunDir) -> str:
    steps = peek(run.states)
    return f"the run folder {run.path}" if steps is None else f"state of step {steps}"


def _write(run: RunDir, fields: dict[str, object]) -> None:
    # On a full disk even this fails; the first error is the one to tell.
    with contextlib.suppress(TltfError):
        storage.write_json(run.error, fields)
