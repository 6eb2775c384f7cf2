"""P2, S2: every file-changing system call of save, prune, publish killed once, and failed once.

Opening and closing are no changes of a file; they take part in the slow test.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging
from faults import writer

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="no strace: make test-tools")
CHANGING = [call for call in writer.BURN if call not in ("openat", "close")]

Row = tuple[str, int, int]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    """Loud lines about damage are the point elsewhere."""
    logging.set_verbosity(logging.FATAL)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where there is such a disk: thousands of fsyncs are not what is tested."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder, "hit")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calls") / "start"
    writer.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def counts(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often the commits make each call."""
    place = tmp_path_factory.mktemp("counts")
    shutil.copytree(start, place / "nothing-130")
    log = place.with_suffix(".log")
    run([str(STRACE), "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(writer.BURN)}"], place)
    last = log.read_text().splitlines()
    child = Counter(line.split()[0] for line in last)
    # The child that commits is the last process to begin.
    pid = list(dict.fromkeys(line.split()[0] for line in last))[-1]
    found = Counter(re.findall(rf"^{pid} +(\w+)\(", log.read_text(), flags=re.M))
    assert sum(found.values()) <= child[pid]
    return found


def run(strace: list[str], place: Path) -> list[Row]:
    command = [*strace, sys.executable, writer.__file__, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(row) for row in json.loads((place / "rows.json").read_text())]


def injected(start: Path, place: Path, injection: str, counts: Counter[str]) -> list[Row]:
    """How each child ended; the folders are left for :func:`wrong`."""
    place.mkdir()
    for call, n in counts.items():
        for i in range(n):
            shutil.copytree(start, place / f"{call}-{i + 1}")
    strace = [str(STRACE), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={','.join(counts)}"]
    for call in counts:
        strace += ["-e", f"inject={call}:{injection}:when={writer.at(call)}"]
    return run(strace, place)


def wrong(place: Path, rows: list[Row]) -> dict[str, list[str]]:
    every = {f"{call}-{n}": writer.found(place / f"{call}-{n}") for call, n, _ in rows}
    return {name: problems for name, problems in every.items() if problems}


def check(start: Path, place: Path, counts: Counter[str], injection: str, ends: set[int]) -> None:
    rows = injected(start, place, injection, counts)
    assert len(rows) == sum(counts.values()) > 50
    print(injection, dict(counts), dict(Counter(row[2] for row in rows)))
    assert [row for row in rows if row[2] not in ends] == []
    assert wrong(place, rows) == {}
    shutil.rmtree(place)


@needs_strace
def test_killed_at_every_call(start: Path, counts: Counter[str], place: Path) -> None:
    """The newest committed state always loads, nothing of a person's goes, a new start goes on."""
    changing = Counter({call: counts[call] for call in CHANGING})
    assert set(+changing) == set(CHANGING)
    check(start, place, changing, "signal=KILL", {-9})


@needs_strace
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_failed_at_every_call(start: Path, counts: Counter[str], place: Path, error: str) -> None:
    """Never exit 0 with a bad artifact, never a crash by a signal, the state before intact."""
    changing = Counter({call: counts[call] for call in CHANGING})
    check(start, place, changing, f"error={error}", {0, 73, 74})


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("injection", ["signal=KILL", "error=EIO", "error=ENOSPC", "error=EDQUOT"])
def test_hit_at_opening_and_closing(
    start: Path, counts: Counter[str], place: Path, injection: str
) -> None:
    both = Counter({call: counts[call] for call in ("openat", "close")})
    ends = {-9} if "KILL" in injection else {0, 73, 74}
    check(start, place, both, injection, ends)
