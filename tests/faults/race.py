"""Processes that want one run folder, forked from this small one: ``python race.py FOLDER``.

Prints JSON: for each of ten races how both ended and how long the loser took; for each of ten
cycles, in which the holder is killed, how long the next one took to start. No TensorFlow.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tltf import rundir, storage
from tltf.errors import TltfError


def start(folder: Path, *, gate: int, hold: int) -> int:
    """A child that waits for the gate, takes the folder, says so by 0 and holds it."""
    pid = os.fork()
    if pid:
        return pid
    os.read(gate, 1)
    try:
        with rundir.opened(folder) as run:
            storage.write_text(run.path / "error.json", str(os.getpid()))
            os.read(hold, 1)
            os._exit(0)
    except TltfError as error:
        os._exit(error.exit_code)


def race(folder: Path) -> dict[str, object]:
    gate, hold = os.pipe(), os.pipe()
    pids = [start(folder, gate=gate[0], hold=hold[0]) for _ in range(2)]
    begun = time.monotonic()
    os.write(gate[1], b"go")
    loser, status = os.wait()
    seconds = time.monotonic() - begun
    os.write(hold[1], b"x")
    winner, other = os.wait()
    assert {loser, winner} == set(pids)
    names = (folder / "error.json").read_text(), (folder / ".lock").read_text().split()[1]
    return {
        "ends": [os.waitstatus_to_exitcode(s) for s in (status, other)],
        "seconds": seconds,
        "untouched": names == (str(winner), str(winner)),
    }


def cycle(folder: Path) -> dict[str, object]:
    """The holder is killed at once after it took the folder; the next starts by itself."""
    gate, hold = os.pipe(), os.pipe()
    mark = folder / "error.json"
    mark.unlink(missing_ok=True)
    pid = start(folder, gate=gate[0], hold=hold[0])
    os.write(gate[1], b"g")
    while not mark.exists():
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.wait()
    begun = time.monotonic()
    with rundir.opened(folder):
        return {"seconds": time.monotonic() - begun}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(
        json.dumps(
            {"races": [race(place) for _ in range(10)], "cycles": [cycle(place) for _ in range(10)]}
        )
    )
