"""S1: a full disk and a limit on file sizes: 74 with need and free, the state before intact."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import writer

from tltf import storage
from tltf.errors import StorageError
from tltf.training import statefiles

LIMITED = """
import resource, sys
from pathlib import Path
from faults import writer
from tltf.errors import TltfError
if sys.argv[2] != "none":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    writer.commits(Path(sys.argv[1]), 3)
except TltfError as error:
    print(error.line())
    sys.exit(error.exit_code)
"""


def limited(folder: Path, limit: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*prefix, sys.executable, "-c", LIMITED, str(folder), limit],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def intact(folder: Path) -> bool:
    newest = statefiles.newest(folder / "state")
    return newest is not None and newest.steps_done == 2


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    writer.prepare(tmp_path / "run")
    done = limited(tmp_path / "run", "20000")
    assert done.returncode == 74, done.stderr
    assert "MB wanted" in done.stdout
    assert "MB free" in done.stdout
    assert intact(tmp_path / "run")


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a small tmpfs needs root"
)
def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=400k tmpfs {disk} || exit 99;"
    script += f" cp -r {tmp_path}/run {disk}/run;"
    script += f' dd if=/dev/zero of={disk}/ballast bs=1k count=400 2>/dev/null; "$@"; code=$?;'
    script += f" rm {disk}/ballast; cp -r {disk}/run {tmp_path}/after; exit $code"
    writer.prepare(tmp_path / "run")
    done = limited(disk / "run", "none", "unshare", "-m", "sh", "-c", script, "sh")
    if done.returncode == 99:
        pytest.skip("a small tmpfs cannot be mounted here")
    assert done.returncode in (73, 74), done.stderr
    assert intact(tmp_path / "after")


def test_the_room_is_looked_at_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda folder: 5_000_000)
    with pytest.raises(StorageError, match=r"80\.0 MB wanted, 5\.0 MB free") as error:
        storage.write_bytes(tmp_path / "x", bytes(80_000_000))
    assert error.value.exit_code == 74
    assert "free some space" in error.value.next_action
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_each_kind_of_full_is_told_alike(tmp_path: Path, number: int) -> None:
    told = storage.storage_error(OSError(number, "x"), tmp_path / "f", need=1_000_000)
    assert "the disk or quota is full: 1.0 MB wanted" in told.line()
