"""The run folder: its names, its lock, and what may be done to it (DESIGN 4.4)."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tltf import storage
from tltf.errors import (
    BusyError,
    InputMissingError,
    MismatchError,
    OutputError,
    named_list,
)
from tltf.spec import TransferSpec

LOCK = ".lock"
OURS = (
    LOCK,
    "spec.json",
    "env.json",
    "flagfile.txt",
    "manifest.jsonl",
    "bad_inputs.jsonl",
    "history.jsonl",
    "progress.json",
    "state",
    "weights",
    "report",
    "compare",
    "tensorboard",
    "export",
    "error.json",
)


@dataclass(frozen=True)
class RunDir:
    """Where everything of one run lies. Get one by :func:`opened` or :func:`existing`."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def env(self) -> Path:
        return self.path / "env.json"

    @property
    def flagfile(self) -> Path:
        return self.path / "flagfile.txt"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    @property
    def bad_inputs(self) -> Path:
        return self.path / "bad_inputs.jsonl"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def states(self) -> Path:
        return self.path / "state"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def compare(self) -> Path:
        return self.path / "compare"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def error(self) -> Path:
        return self.path / "error.json"

    def read_spec(self) -> TransferSpec:
        """The resolved specification that the run was started with."""
        return TransferSpec.from_json(self.spec.read_text("utf-8"))

    def stage(self) -> dict[str, Any]:
        """progress.json: ``finished``, ``plan``, ``resumed_from``, ``servable``."""
        start = {"finished": False, "plan": [], "resumed_from": None, "servable": None}
        return storage.read_json(self.progress) if self.progress.exists() else start

    def record(self, **fields: Any) -> None:
        """Merges fields into progress.json, atomically."""
        storage.write_json(self.progress, {**self.stage(), **fields})

    def agree(self, requested: TransferSpec) -> TransferSpec:
        """The run's own specification, if ``requested`` asks for nothing else.

        Fields that are None or ``auto`` in the request were left to tltf; the run's are taken.

        Raises:
          MismatchError: naming each field that differs.
        """
        saved = self.read_spec()
        differences = saved.differences(completed(requested, saved))
        if differences:
            raise MismatchError(
                f"this run was started with other settings: {named_list(differences, most=3)}",
                where=self.path,
                kept="the run as it is",
                next_action="use the same settings, another --workdir, or --fresh to start over",
            )
        return saved

    def clear(self) -> None:
        """Removes what tltf wrote here, and nothing else."""
        for name in OURS:
            if name != LOCK:
                remove(self.path / name)


def completed(requested: TransferSpec, saved: TransferSpec) -> TransferSpec:
    """``requested`` with every None and ``auto`` replaced by the saved value of that field."""
    return TransferSpec.from_json(
        json.dumps(_fill(json.loads(requested.to_json()), json.loads(saved.to_json())))
    )


def _fill(value: Any, saved: Any) -> Any:
    if value is None or value == "auto":
        return saved
    if isinstance(value, dict) and isinstance(saved, dict):
        return {key: _fill(item, saved.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(saved, list) and len(value) == len(saved):
        return [_fill(item, other) for item, other in zip(value, saved, strict=True)]
    return value


def existing(path: str | Path) -> RunDir:
    """A run folder for reading.

    Raises:
      InputMissingError: there is no run in the folder.
    """
    run = RunDir(Path(path))
    if not run.spec.is_file():
        raise InputMissingError(
            "no run here: expected a folder that `tltf train` wrote",
            where=run.path,
            next_action="pass the --workdir of a training as --run",
        )
    return run


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[RunDir]:
    """Creates or takes the run folder and holds its lock until the block ends.

    The lock is the kernel's (`flock`): it vanishes with the process, however that dies.

    Raises:
      OutputError: the path is a file, unwritable, has no parent, or holds foreign files.
      BusyError: another process holds the folder.
    """
    folder = Path(path)
    check_output(folder)
    run = RunDir(folder.resolve())
    with (run.path / LOCK).open("a+", encoding="utf-8") as lock:
        _take(lock, run.path)
        _remove_litter(run.path)
        yield run


def check_output(folder: Path) -> None:
    """Creates ``folder`` if needed; raises OutputError unless it is empty or a run's."""
    check_writable(folder, flag="--workdir")
    names = {item.name for item in folder.iterdir()}
    if names and not names & {LOCK, "spec.json"}:
        raise OutputError(
            f"the folder holds files that are not a run's: {named_list(sorted(names), most=3)}",
            where=folder,
            kept="everything in it",
            next_action="choose a new or empty --workdir",
        )


def check_writable(folder: Path, *, flag: str = "output") -> None:
    """Creates ``folder`` if its parent exists; raises OutputError unless it can be written."""
    try:
        folder.mkdir(exist_ok=True)
        probe = storage.sibling(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        remedy = {
            "FileExistsError": "it is a file: name a folder",
            "FileNotFoundError": f"create its parent first: mkdir -p {folder.parent}",
        }.get(type(error).__name__, "name a folder that you may write to")
        raise OutputError(
            f"cannot write there: {error.strerror}",
            where=f"{flag}={folder}",
            next_action=remedy,
        ) from error


def _take(lock: Any, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "a process that has not said its name yet"
        raise BusyError(
            f"another run holds this folder: {holder}",
            where=folder,
            kept="its work, untouched",
            next_action="wait for it, or use another --workdir",
        ) from error
    lock.seek(0)
    lock.truncate()
    now = datetime.datetime.now().isoformat(timespec="seconds")
    lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {now}")
    lock.flush()


def _remove_litter(folder: Path) -> None:
    """Temporary siblings that a killed writer left; only our own name pattern, only our places."""
    for place in (folder, *(folder / name for name in ("state", "weights", "report", "export"))):
        if place.is_dir() and not place.is_symlink():
            for item in place.glob(f"{storage.TEMPORARY}*"):
                remove(item)


def remove(path: Path) -> None:
    """Removes a file, a link (not what it points to) or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
