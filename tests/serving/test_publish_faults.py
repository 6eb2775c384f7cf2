"""A server that looks at any moment, and a publisher that dies at any moment (FAULTS C3-C5)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import publisher
import pytest

from tltf.serving import publish

SCRIPT = Path(publisher.__file__)
CHANGING = ("openat", "mkdir", "rename", "unlink", "unlinkat", "rmdir", "fsync", "write")


@pytest.mark.parametrize(
    ("publishes", "polls"),
    [(12, 3_000), pytest.param(200, 100_000, marks=pytest.mark.slow)],
)
def test_a_server_that_polls_sees_only_whole_versions(
    publishes: int, polls: int, tmp_path: Path
) -> None:
    """As TF Serving does it: list the folder, take the largest number, read its files.

    Two publishers write and prune at the same time. A version that is pruned while it is being
    read is gone as a whole: then a newer one is there.
    """
    publisher.publish_one(tmp_path, "start", keep=3)
    threads = [
        threading.Thread(
            target=lambda who=who: [
                publisher.publish_one(tmp_path, f"{who}{i}", keep=3) for i in range(publishes // 2)
            ]
        )
        for who in "ab"
    ]
    for thread in threads:
        thread.start()
    seen, done, partial = 0, 0, []
    while done < polls or any(thread.is_alive() for thread in threads):
        done += 1
        newest = publish.newest(tmp_path)
        assert newest is not None
        if publisher.whole(newest):
            seen = max(seen, int(newest.name))
        elif newest.exists():
            partial.append(newest.name)
    for thread in threads:
        thread.join()
    assert partial == []
    assert seen == publishes + 1 == publish.versions(tmp_path)[-1]
    assert len(publish.versions(tmp_path)) == 3


def test_a_reader_would_notice_a_copy_in_place(tmp_path: Path) -> None:
    """The poll above finds what it is looking for."""
    publisher.write(tmp_path / "1", "whole")
    assert publisher.whole(tmp_path / "1")
    (tmp_path / "1" / publisher.FILES[-1]).unlink()
    assert not publisher.whole(tmp_path / "1")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to kill at a system call")
@pytest.mark.parametrize(
    "stride", [12, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_a_publisher_killed_at_any_file_changing_call(stride: int, tmp_path: Path) -> None:
    """The version that was there stays whole and newest, or the new one is whole and newest."""
    start = tmp_path / "start"
    start.mkdir()
    for number in range(3):
        publisher.publish_one(start, f"old{number}", keep=3)
    calls = file_changing_calls(start, tmp_path)
    assert len(calls) >= 25
    assert {name for name, _ in calls} >= {"openat", "mkdir", "write", "fsync", "rename", "rmdir"}
    for name, i in calls[::stride]:
        folder = tmp_path / f"{name}-{i}"
        shutil.copytree(start, folder)
        killed = traced(folder, "-e", f"inject={name}:signal=SIGKILL:when={i}")
        assert killed.returncode in (-9, 137), (name, i, killed)
        newest = publish.newest(folder)
        assert newest is not None
        assert newest.name in ("3", "4"), (name, i)
        assert all(publisher.whole(folder / str(v)) for v in publish.versions(folder)), (name, i)
        litter = [x.name for x in folder.iterdir() if not x.name.isdecimal()]
        assert all(x.startswith(".tmp-") for x in litter), litter
        after = publisher.publish_one(folder, "after", keep=3)
        assert publisher.whole(after)
        assert publish.newest(folder) == after


def traced(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One publish under strace."""
    return subprocess.run(
        ["strace", "-y", "-e", f"trace={','.join(CHANGING)}", *options,
         sys.executable, str(SCRIPT), str(folder), "new"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def file_changing_calls(start: Path, tmp_path: Path) -> list[tuple[str, int]]:
    """Each call that changes something below the target: its name, and which one of that name.

    One publish is listed whole; the next ones make the same calls in the same order.
    """
    folder, log = tmp_path / "listed", tmp_path / "log"
    shutil.copytree(start, folder)
    done = traced(folder, "-o", str(log))
    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    found = []
    for line in log.read_text("utf-8", "replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is None or match.group(1) not in CHANGING:
            continue
        counts[match.group(1)] += 1
        reading = match.group(1) == "openat" and "O_CREAT" not in line
        if str(folder) in line and not reading:
            found.append((match.group(1), counts[match.group(1)]))
    return found
