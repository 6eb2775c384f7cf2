"""``make soak``: real two-phase runs, killed at random and hindered by faults, for a given time.

Every session is ``tltf train`` in a process forked from this one, which has imported TensorFlow
and computed nothing. Sessions are killed by SIGKILL at a random moment or stopped by SIGTERM;
between them a bit of the newest state may flip, and a session may find the disk full. In the end
each run must have the hashes of the uninterrupted one, without anybody's help.

    python -m faults.soak --minutes=60 --kills=200 --workdir=FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from pictures import write_digit_folder

from tltf import storage, tensorfile
from tltf.cli import app
from tltf.rundir import RunDir

SAVE_STEPS = 3
FLAGS = (
    "--backbone=mlp", "--weights=none", "--image_size=8", "--head_epochs=2", "--tune_epochs=3",
    "--batch_size=8", "--augment=light", "--batch_norm=adapt", f"--save_every={SAVE_STEPS}steps",
)  # fmt: skip
MOST_ATTEMPTS = 12
RUNS_IN_ONE_PROCESS = 6


def train(data: Path, run: Path, *, export: bool) -> int:
    """The command, with every training step noted in ``run.steps``."""
    from tltf.training.callbacks import FrozenCheck

    log = os.open(run.with_suffix(".steps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    FrozenCheck.on_train_batch_end = lambda *_, **__: os.write(log, b".")
    flags = [*FLAGS, f"--data={data}", f"--workdir={run}"]
    return app.dispatch(["train", *flags, f"--export={'auto' if export else 'none'}"])


def child(work: Callable[[], int], *, said: Path, kill_after: float | None = None,
          by: int = signal.SIGKILL) -> int:  # fmt: skip
    """How ``work`` ended in a process of its own, which a signal may hit after some seconds."""
    pid = os.fork()
    if pid == 0:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    begun = time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if kill_after is not None and time.monotonic() - begun > kill_after:
            os.kill(pid, by)
            kill_after = None
        time.sleep(0.01)


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was killed."""
    folder = RunDir(run)
    tensors, _ = tensorfile.read_tensors(folder.weights / "model.safetensors")
    state = hashlib.sha256()
    for array in tensors.values():
        state.update(np.ascontiguousarray(array).tobytes())
    rows = [json.loads(line) for line in folder.history.read_text().splitlines()]
    report = json.loads((folder.report / "report.json").read_text())
    return {
        "weights": state.hexdigest(),
        "decision": (folder.weights / "decision.json").read_text(),
        "history": [{k: v for k, v in r.items() if "_second" not in k} for r in rows],
        "metrics": report["metrics"],
    }


def flip(run: Path, generator: random.Random) -> bool:
    """One bit of the newest state, as a disk may do it."""
    folders = sorted(p for p in (run / "state").glob("*-*-*") if p.name[0].isdecimal())
    if len(folders) < 2:
        return False
    path = generator.choice(sorted(folders[-1].iterdir()))
    data = bytearray(path.read_bytes())
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
    return True


def full_disk(work: Callable[[], int]) -> int:
    """No file may become larger than a few kilobytes: what is committed then fails midway."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    return work()


def one_run(place: Path, data: Path, seconds: float, generator: random.Random,
            number: int, counts: Counter[str]) -> dict[str, Any]:  # fmt: skip
    """A run from nothing to its end, through one to three kills and perhaps other faults."""
    run, said = place / f"run{number}", place / f"run{number}.log"
    export = number % 5 == 0

    def work() -> int:
        return train(data, run, export=export)

    kills = 0
    for _ in range(generator.choice((1, 2, 3, 3, 3))):
        by = generator.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
        after = generator.uniform(0.15, 1.0) * seconds
        ended = child(work, said=said, kill_after=after, by=by)
        kills += ended == -signal.SIGKILL
        counts["kill" if ended == -signal.SIGKILL else f"exit {ended}"] += 1
        if ended == 0:
            break
        if generator.random() < 0.2 and flip(run, generator):
            counts["bit flip"] += 1
        if generator.random() < 0.2:
            counts[f"full disk: exit {child(lambda: full_disk(work), said=said)}"] += 1
    attempts = 0
    while child(work, said=said) != 0:
        attempts += 1
        if attempts == MOST_ATTEMPTS:
            break
    return {
        "kills": kills,
        "finished": attempts < MOST_ATTEMPTS,
        "retries": attempts,
        "steps": run.with_suffix(".steps").stat().st_size,
        "litter": len(list(run.rglob(f"{storage.TEMPORARY}*"))),
        "resumes": len(RunDir(run).stage()["resumes"]),
    }


def slopes(place: Path, data: Path) -> dict[str, float]:
    """Growth of memory and open files per run, when one process trains again and again."""
    answer = place / "slopes.json"

    def work() -> int:
        rows = []
        for i in range(RUNS_IN_ONE_PROCESS):
            train(data, place / f"slope{i}", export=False)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rows.append((pages * resource.getpagesize() / 1e6, len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
        answer.write_text(json.dumps(rows))
        return 0

    child(work, said=place / "slopes.log")
    rows = np.array(json.loads(answer.read_text()))[1:]  # the first one loads libraries
    x = np.arange(len(rows))
    return {
        "rss_mb_per_run": round(float(np.polyfit(x, rows[:, 0], 1)[0]), 2),
        # one of them is this program's own log of steps
        "fds_per_run": round(float(np.polyfit(x, rows[:, 1], 1)[0]) - 1, 2),
    }


def soak(place: Path, *, minutes: float, kills: int, seed: int) -> dict[str, Any]:
    generator, counts = random.Random(seed), Counter[str]()
    data = write_digit_folder(place / "digits", (0, 1), 16)
    whole, begun = place / "whole", time.monotonic()
    for _ in range(2):  # the second time, with features cached, tells how long a run takes
        shutil.rmtree(whole, ignore_errors=True)
        whole.with_suffix(".steps").unlink(missing_ok=True)
        started = time.monotonic()
        if child(lambda: train(data, whole, export=False), said=place / "whole.log"):
            sys.exit(f"the uninterrupted run failed, see {place / 'whole.log'}")
        seconds = time.monotonic() - started
    expected, planned = outcome(whole), whole.with_suffix(".steps").stat().st_size
    rows: list[dict[str, Any]] = []
    different = 0
    while time.monotonic() - begun < minutes * 60 and sum(r["kills"] for r in rows) < kills:
        row = one_run(place, data, seconds, generator, len(rows), counts)
        run = place / f"run{len(rows)}"
        if not row["finished"] or outcome(run) != expected:
            different += 1
            print(f"DIFFERENT: {run}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(run)
        rows.append(row)
        done = sum(r["kills"] for r in rows)
        print(f"run {len(rows)}: {done} kills, {different} different", file=sys.stderr, flush=True)
    lost = [row["steps"] - planned for row in rows]
    return {
        "runs": len(rows),
        "kills": sum(row["kills"] for row in rows),
        "events": dict(counts),
        "different outcomes": different,
        "manual interventions": sum(not row["finished"] for row in rows),
        "retries needed": sum(row["retries"] for row in rows),
        "steps planned": planned,
        "steps repeated per run": round(float(np.mean(lost)), 2) if lost else None,
        "litter": sum(row["litter"] for row in rows),
        "resumes recorded": sum(row["resumes"] for row in rows),
        **slopes(place, data),
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/soak"))
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    shutil.rmtree(given.workdir, ignore_errors=True)
    given.workdir.mkdir(parents=True)
    os.environ["TLTF_CACHE_DIR"] = str((given.workdir / "cache").absolute())
    # Imported before the forks; listing devices would start what a fork cannot take along.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow  # noqa: F401

    from tltf import pipeline  # noqa: F401

    result = soak(given.workdir.absolute(), minutes=given.minutes, kills=given.kills,
                  seed=given.seed)  # fmt: skip
    print(json.dumps(result, indent=2))
    return int(result["different outcomes"] > 0 or result["manual interventions"] > 0)


if __name__ == "__main__":
    sys.exit(main())
