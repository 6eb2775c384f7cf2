"""The run folder: its names, its lock, and what may be done to it (DESIGN 4.4)."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tltf import sealed, storage
from tltf.errors import (
    BusyError,
    InputMissingError,
    MismatchError,
    OutputError,
    StorageError,
    TltfError,
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
    "rates.json",
    "microbatch.json",
    "state",
    "weights",
    "report",
    "compare",
    "candidates",
    "tensorboard",
    "export",
    "error.json",
    "test_logits.safetensors",
)
FOLDERS = ("state", "weights", "report", "export")
_SIGNATURE = re.compile(r"pid \d+ on \S+ since \d{4}-\d\d-\d\dT")


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
        """The resolved specification that the run was started with.

        Raises:
          StorageError: it is not, byte for byte, what was committed.
        """
        return TransferSpec.from_json(self.read_committed(self.spec))

    def stage(self) -> dict[str, Any]:
        """progress.json: what was committed, with its hashes, and how often it was resumed.

        Raises:
          StorageError: the file is damaged.
        """
        start: dict[str, Any] = {
            "finished": False, "plan": [], "resumed_from": None, "resumes": [], "servable": None,
            "hashes": {},
        }  # fmt: skip
        return storage.read_sealed(self.progress) if self.progress.exists() else start

    def record(self, **fields: Any) -> None:
        """Merges fields into progress.json, atomically."""
        storage.write_sealed(self.progress, {**self.stage(), **fields})

    def commit(self, path: Path, text: str, **fields: Any) -> None:
        """Writes a file that will not change any more, then its hash and ``fields``.

        Until the hash is in progress.json the file does not count: see :meth:`has`.
        """
        storage.write_text(path, text)
        hashes = {**self.stage()["hashes"], path.name: storage.file_sha256(path)}
        self.record(hashes=hashes, **fields)

    def has(self, path: Path) -> bool:
        """Whether :meth:`commit` of this file went through."""
        return path.name in self.stage()["hashes"]

    def read_committed(self, path: Path) -> str:
        """The text of a committed file.

        Raises:
          InputMissingError: it was never committed.
          StorageError: it is missing or damaged.
        """
        if not self.has(path):
            raise InputMissingError(
                f"the run has no {path.name} yet", where=self.path, next_action="finish the run"
            )
        if not path.is_file() or storage.file_sha256(path) != self.stage()["hashes"][path.name]:
            raise storage.damaged(path, "it is not what the run committed")
        return path.read_text("utf-8")

    def is_finished(self) -> bool:
        """Whether the run is complete; a damaged progress.json says no."""
        try:
            return bool(self.stage()["finished"])
        except StorageError:
            return False

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
        """Removes what tltf wrote here, and nothing else: a person's files stay."""
        for name in (*OURS, *_damaged(self.path)):
            path = self.path / name
            if name == LOCK:
                continue
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            sealed.remove_litter(path)
            if name in ("compare", "candidates"):
                for below in path.glob("*/"):
                    RunDir(below).clear()
                    (below / LOCK).unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        below.rmdir()
            for below in (path, *(item for item in path.glob("*") if item.is_dir())):
                if not below.is_symlink() and sealed.is_sealed(below):
                    sealed.remove_own(below)
            with contextlib.suppress(OSError):
                path.rmdir()


def _damaged(folder: Path) -> list[str]:
    return [item.name for item in folder.glob(f"{sealed.DAMAGED}*")]


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
    if not run.progress.is_file() or not run.has(run.spec):
        raise InputMissingError(
            "no run here: expected a folder that `tltf train` wrote",
            where=run.path,
            next_action="pass the --workdir of a training as --run",
        )
    return run


@contextlib.contextmanager
def opened(path: str | Path, *, fresh: bool = False) -> Iterator[RunDir]:
    """Creates or takes the run folder and holds its lock until the block ends.

    The lock is the kernel's (`flock`): it vanishes with the process, however that dies. In the
    folder of a finished run no file is touched, unless ``fresh`` clears it.

    Raises:
      OutputError: the path is a file or named like one, unwritable, or holds foreign files.
      BusyError: another process holds the folder.
    """
    folder = Path(path)
    check_output(folder)
    run = RunDir(folder.resolve())
    with _failing_as_output(run.path), _locked(run.path) as lock:
        for place in (run.path, *(run.path / name for name in FOLDERS)):
            if place.is_dir() and not place.is_symlink():
                sealed.remove_litter(place)
        if fresh:
            run.clear()
        if fresh or not run.is_finished():
            _sign(lock)
        held = os.dup(lock.fileno())
    try:
        yield run
    finally:
        # Linux gives the descriptor back, and with it the lock, also where closing fails.
        with contextlib.suppress(OSError):
            os.close(held)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[str]]:
    """The lock file, taken. A copy of its descriptor keeps the lock when the block has ended."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as lock:
        _take(lock, folder)
        yield lock


@contextlib.contextmanager
def _failing_as_output(folder: Path) -> Iterator[None]:
    try:
        yield
    except TltfError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot use the folder: {error.strerror}",
            where=error.filename or folder,
            kept="everything in it",
            next_action="see to it, or name another --workdir",
        ) from error


def check_output(folder: Path) -> None:
    """Creates ``folder`` if needed; raises OutputError unless it is empty or a run's."""
    check_writable(folder, flag="--workdir")
    with _failing_as_output(folder):
        # Another start's probe, at this very moment, is not a person's file.
        found = {item.name for item in folder.iterdir()}
        names = {name for name in found if not name.startswith(storage.TEMPORARY)}
        foreign = bool(names) and not _is_run(folder, names)
    if foreign:
        raise OutputError(
            f"the folder holds files that are not a run's: {named_list(sorted(names), most=3)}",
            where=folder,
            kept="everything in it",
            next_action="choose a new or empty --workdir",
        )


def _is_run(folder: Path, names: set[str]) -> bool:
    """Whether tltf made the folder: by our lock, or, in a copy without it, our specification."""
    lock = folder / LOCK
    if lock.is_file() and not lock.is_symlink():
        text = lock.read_bytes()[:200].decode("utf-8", "replace")
        # Empty: killed between making the lock and signing it. Then nothing else is there yet.
        return bool(_SIGNATURE.match(text)) or (not text and names <= {LOCK, *OURS})
    try:
        TransferSpec.from_json((folder / "spec.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


FILES = (
    ".csv", ".tsv", ".json", ".jsonl", ".txt", ".html", ".pdf", ".png", ".parquet", ".xlsx", ".zip",
    ".tar", ".gz", ".keras", ".h5", ".pb", ".tflite", ".onnx", ".safetensors",
)  # fmt: skip
"""Endings of files: who names one does not expect a folder of that name."""


def check_writable(folder: Path, *, flag: str = "output") -> None:
    """Creates ``folder`` and its parents; raises OutputError unless it can be written."""
    if folder.suffix.lower() in FILES and not folder.exists():
        raise OutputError(
            f"{folder.name} is the name of a file, and a folder is made here",
            where=f"{flag}={folder}",
            next_action=f"name a folder, for example {folder.with_suffix('')}",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = storage.sibling(folder / "probe")
        probe.touch()
        # The holder of the folder may clear it away first, as litter.
        probe.unlink(missing_ok=True)
    except OSError as error:
        remedy = {
            "FileExistsError": "it is a file: name a folder",
            "NotADirectoryError": "a part of the path is a file: name a folder",
        }.get(type(error).__name__, "name a folder that you may write to")
        raise OutputError(
            f"cannot write there: {error.strerror}",
            where=f"{flag}={folder}",
            next_action=remedy,
        ) from error


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = lock.read().strip() or "a process that has not said its name yet"
        raise BusyError(
            f"another run holds this folder: {holder}",
            where=folder,
            kept="its work, untouched",
            next_action="wait for it, or use another --workdir",
        ) from error


def _sign(lock: IO[str]) -> None:
    """Who holds the folder: written over the last holder's name, so that it is never empty."""
    now = datetime.datetime.now().isoformat(timespec="seconds")
    lock.seek(0)
    lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {now}\n")
    lock.truncate()
    lock.flush()


def remove(path: Path) -> None:
    """Removes a file, a link (not what it points to) or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
