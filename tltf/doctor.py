"""What the machine has and lacks for tltf: findings with remedies, gathered without a crash."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tltf import legacy, storage
from tltf.backbones import catalog
from tltf.errors import TltfError

OK, WARNING, BAD = "ok", "warning", "bad"
PACKAGES = (
    *("tensorflow", "keras", "numpy", "absl-py", "scikit-learn", "matplotlib", "jinja2", "h5py"),
    *("tensorflow-datasets", "tensorflow-hub", "setuptools", "protobuf"),
)
WANTED = {"tensorflow": (2, 21), "keras": (3, 15)}
LEAST_FREE_BYTES = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of ``tltf doctor``: what was looked at, how it is, and what to do about it."""

    about: str
    level: str
    says: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; remedy: {self.remedy}" if self.remedy else ""
        return f"{self.level:<8}{self.about}: {self.says}{remedy}"


def findings(weights: str | None = None) -> Iterator[Finding]:
    """Everything that can be known about this machine, one finding after the other.

    Args:
      weights: a backbone whose official weights are wanted at hand; None looks at none.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _combinations, _processor, _devices, _caches, _disk, _tools,
    ]  # fmt: skip
    if weights is not None:
        checks.append(lambda: _weights(weights))
    for check in checks:
        try:
            yield from check()
        # A doctor that falls ill on what it looks at helps nobody.
        except Exception as error:
            name = getattr(check, "__name__", "weights").strip("_")
            yield Finding(about=name, level=BAD, says=f"{type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        about="python",
        level=OK if good else BAD,
        says=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        remedy="" if good else "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(about=name, level=BAD, says="missing", remedy=f"pip install {name}")
            continue
        wanted = WANTED.get(name)
        good = wanted is None or _numbers(version)[:2] == wanted
        expected = ".".join(map(str, wanted or ()))
        yield Finding(
            about=name,
            level=OK if good else BAD,
            says=version,
            remedy="" if good else f"pip install '{name}=={expected}.*'",
        )


def _combinations() -> Iterator[Finding]:
    """Versions that are good by themselves and bad together."""
    try:
        legacy.refuse()
    except TltfError as error:
        yield Finding(about="keras", level=BAD, says=error.what, remedy=error.next_action)
    if _version("setuptools") >= (82,) and _version("tensorflow-hub"):
        yield Finding(
            about="setuptools with tensorflow-hub",
            level=BAD,
            says="tensorflow_hub needs pkg_resources, which setuptools 82 took away",
            remedy="pip install 'setuptools<82'",
        )
    if _version("tensorflow-text"):
        yield Finding(
            about="tensorflow-text",
            level=OK,
            says="installed; tltf does not use it: its servables need no further library",
        )


def _processor() -> Iterator[Finding]:
    flags: set[str] = set()
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text("utf-8")
        flags = set(next((x for x in text.splitlines() if x.startswith("flags")), "").split())
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = sorted(flags & {"avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "fma"})
    slow = bool(flags) and "avx" not in flags
    yield Finding(
        about="processor",
        level=BAD if slow else OK,
        says=f"{allowed} of {os.cpu_count()} cores, {', '.join(known) or 'no known vector unit'}",
        remedy="TensorFlow's wheels need AVX: use another machine" if slow else "",
    )


def _devices() -> Iterator[Finding]:
    import tensorflow as tf

    found = [device.device_type for device in tf.config.list_physical_devices()]
    gpus = found.count("GPU")
    built = tf.test.is_built_with_cuda()
    lost = Path("/proc/driver/nvidia").exists() and not gpus
    yield Finding(
        about="devices",
        level=WARNING if lost else OK,
        says=f"{gpus} GPU, {found.count('CPU')} CPU{', built with CUDA' if built else ''}",
        remedy="pip install 'tensorflow[and-cuda]'" if lost else "",
    )


def _caches() -> Iterator[Finding]:
    keras_home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    own = Path(os.environ.get("TLTF_CACHE_DIR") or Path.home() / ".cache" / "tltf")
    for about, folder, variable in (
        ("weights cache", keras_home / "models", "KERAS_HOME"),
        ("tltf cache", own, "TLTF_CACHE_DIR"),
    ):
        files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
        size = sum(p.stat().st_size for p in files)
        trouble = _not_writable(folder)
        shared = folder.is_dir() and bool(folder.stat().st_mode & 0o022)
        level = BAD if trouble else WARNING if shared else OK
        remedy = ""
        if trouble:
            remedy = f"make {folder} writable, or set {variable}"
        elif shared:
            remedy = f"others may plant files there: chmod go-w {folder}"
        says = trouble or f"{folder}, {len(files)} files, {size / 1e6:.0f} MB"
        yield Finding(about=about, level=level, says=says, remedy=remedy)


def _disk() -> Iterator[Finding]:
    for about, folder in (("disk here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free, trouble = storage.free_bytes(folder), _not_writable(folder)
        low = free < LEAST_FREE_BYTES
        yield Finding(
            about=about,
            level=BAD if trouble else WARNING if low else OK,
            says=trouble or f"{folder}, {free / 1e9:.1f} GB free",
            remedy="name a --workdir elsewhere" if trouble else "free some space" if low else "",
        )


def _tools() -> Iterator[Finding]:
    """Tools that tests and people may want; none is needed to train."""
    for name, use in (("strace", "the tests of every system call: make test-tools"),):
        there = shutil.which(name)
        yield Finding(about=name, level=OK, says=there or f"absent; only {use}")


def _weights(name: str) -> Iterator[Finding]:
    """Whether a backbone can be built offline."""
    from tltf.backbones import backbone

    catalog.lookup(name)
    try:
        backbone(name)
    except TltfError as error:
        yield Finding(about=f"weights of {name}", level=BAD, says=error.what,
                      remedy=error.next_action)  # fmt: skip
        return
    yield Finding(about=f"weights of {name}", level=OK, says="at hand")


def _not_writable(folder: Path) -> str:
    """Why nothing can be written there, or in the first folder above that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"


def _version(name: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("2.21.0rc1")
    (2, 21)
    """
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
