"""Every kind of commit that a run makes, once, in children that strace kills or fails.

Run under strace as ``python writer.py FOLDER``: for each folder ``FOLDER/<call>-<n>`` a child
makes the commits there, hit at the n-th call of that kind. strace counts for each process anew
and injects at call number :func:`at`, so the child first makes ``at - n`` harmless calls of the
kind. The interpreter's start opens and closes hundreds of files, hence a later number for these.
Leaves ``rows.json`` with how each ended. No TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from tltf import rundir, sealed, storage, tensorfile
from tltf.errors import TltfError
from tltf.rundir import RunDir
from tltf.serving import publish
from tltf.training import statefiles
from tltf.training.statefiles import Position, State

CRASHED = 99
NULL = os.open(os.devnull, os.O_WRONLY)
NOWHERE = "/nonexistent/x"
BURN: dict[str, Callable[[], object]] = {
    "openat": lambda: os.open(NOWHERE, os.O_RDONLY),
    "write": lambda: os.write(NULL, b"x"),
    "fsync": lambda: os.fsync(NULL),
    "rename": lambda: os.rename(NOWHERE, NOWHERE),  # noqa: PTH104
    "unlink": lambda: os.unlink(NOWHERE),  # noqa: PTH108
    "unlinkat": lambda: os.unlink("x", dir_fd=NULL),
    "mkdir": lambda: os.mkdir(NOWHERE),  # noqa: PTH102
    "close": lambda: os.close(999),
}


def at(call: str) -> int:
    """The number of the call of its kind that strace hits."""
    return 800 if call in ("openat", "close") else 130


def state(steps: int) -> State:
    tensors = {"model/00000": np.full(5000, float(steps)), "optimizer/00000": np.arange(steps)}
    return State(Position(0, steps, 0), steps, {"best": {"best": 0.5}}, [{"epoch": steps}], tensors)


def commits(folder: Path, steps: int) -> None:
    """A state, the weights, a note in progress.json, and a published version."""
    with rundir.opened(folder) as run:
        statefiles.write(run.states, state(steps))
        with sealed.committed(run.weights) as weights:
            tensorfile.write_tensors(weights / "model.safetensors", state(steps).tensors)
            storage.write_json(weights / "decision.json", {"steps": steps})
        run.commit(run.history, f"{steps}\n", steps=steps)
        run.export.mkdir(exist_ok=True)
        version = storage.sibling(run.export / "version")
        try:
            version.mkdir()
            (version / "saved_model.pb").write_bytes(b"graph" * steps)
            publish.commit(version, run.export)
        except OSError as error:
            raise storage.storage_error(error, version) from error
        finally:
            shutil.rmtree(version, ignore_errors=True)


def prepare(folder: Path) -> None:
    """A run that has committed twice, with a file of a person's in each of its folders."""
    for steps in (1, 2):
        commits(folder, steps)
    for name in ("weights", "export", "."):
        (folder / name / "mine.txt").write_text("mine")


def found(folder: Path) -> list[str]:
    """What is wrong with what a reader finds; after that, a new start must be able to go on."""
    wrong = []
    newest = statefiles.newest(folder / "state")
    if newest is None or newest.steps_done not in (2, 3):
        wrong.append("no committed state")
    elif newest.tensors["model/00000"][0] != newest.steps_done:
        wrong.append("a state with other tensors")
    if (folder / "weights").exists():
        wrong += problems("weights", folder / "weights")
    versions = publish.versions(folder / "export")
    if not {1, 2} <= set(versions):
        wrong.append("a published version is gone")
    for version in versions:
        wrong += problems(f"version {version}", folder / "export" / str(version))
    with contextlib.suppress(TltfError):
        RunDir(folder).stage()
    commits(folder, 3)
    left = [p.name for p in folder.rglob(f"{storage.TEMPORARY}*") if not holds_mine(p)]
    wrong += [f"litter {name}" for name in left]
    mine = list(folder.rglob("mine.txt"))
    wrong += [] if len(mine) == 3 else [f"a person's files: {len(mine)} of 3"]
    again = statefiles.newest(folder / "state")
    wrong += [] if again is not None and again.steps_done == 3 else ["it does not go on"]
    return wrong


def holds_mine(path: Path) -> bool:
    return path.is_dir() and (path / "mine.txt").exists()


def problems(name: str, folder: Path) -> list[str]:
    try:
        sealed.verify(folder)
    except TltfError as error:
        return [f"{name}: {error.what}"]
    return []


def child(work: Callable[[], int]) -> int:
    """Exit code, or minus the signal, of ``work`` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = CRASHED
        try:
            code = work()
        except TltfError as error:
            code = error.exit_code
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hit(folder: Path, call: str, n: int) -> int:
    def work() -> int:
        for _ in range(at(call) - n if call in BURN else 0):
            with contextlib.suppress(OSError):
                BURN[call]()
        commits(folder, 3)
        return 0

    return child(work)


def serve(place: Path) -> int:
    """Forks the children; itself it makes no call that counts, until all is done."""
    cases = [name.rpartition("-") for name in sorted(os.listdir(place))]  # noqa: PTH208
    rows = [(call, int(n), hit(place / f"{call}-{n}", call, int(n))) for call, _, n in cases]
    (place / "rows.json").write_text(json.dumps(rows))
    return 0


def main(place: Path) -> None:
    logging.set_verbosity(logging.FATAL)
    # In a process of its own, since the interpreter's start has made hundreds of calls.
    sys.exit(child(lambda: serve(place)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
