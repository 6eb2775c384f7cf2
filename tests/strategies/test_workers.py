"""Several processes of one training: the result of one, and what happens when one of them dies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf import cluster
from tltf.cli import launch
from tltf.errors import ArgumentError, WorkerLostError
from tltf.trained import load

COMMAND = [sys.executable, "-c", "from tltf.cli.app import main; main()"]
FLAGS: dict[str, Any] = {
    "image_size": 8, "head_epochs": 3, "tune_epochs": 4, "unfreeze": "last:1", "dropout": 0,
    "batch_size": 16, "export": "none", "batch_norm": "adapt", "save_every": "3steps",
}  # fmt: skip


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a run on 93 digits from a network that knows them a little: the last batch is smaller."""
    folder = tmp_path_factory.mktemp("workers")
    data = write_digit_folder(folder / "digits", (0, 1, 2), 31)
    source = tltf("pretrain", data=data, workdir=folder / "source", scratch_epochs=2,
                  image_size=8, export="none")  # fmt: skip
    assert source.code == 0, source.err
    given = {**FLAGS, "data": data, "backbone": f"file:{folder / 'source'}",
             "cache": folder / "cache"}  # fmt: skip
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def alone(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run([*COMMAND, "train", *flags, f"--workdir={run}"], check=True)
    return run


def launched(flags: list[str], run: Path, workers: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "launch", f"--workers={workers}", "--", "train", *flags, f"--workdir={run}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def check_equal(run: Path, other: Path, *, close: float = 2e-6) -> None:
    """Losses, metrics and weights."""
    rows = [
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (run, other)
    ]
    assert len(rows[0]) == len(rows[1]) > 0
    for one, two in zip(*rows, strict=True):
        for key, value in one.items():
            if not key.endswith("_seconds"):
                assert two[key] == pytest.approx(value, abs=close), (one, two)
    weights = [load(folder / "weights").model.get_weights() for folder in (run, other)]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=close * max(1.0, np.abs(one).max()))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_several_processes_give_the_result_of_one(
    workers: int, flags: list[str], alone: Path, tmp_path: Path
) -> None:
    done = launched(flags, tmp_path / "run", workers)
    assert done.returncode == 0, done.stderr
    check_equal(alone, tmp_path / "run", close=2e-5)  # BatchNorm adapts, see test_devices
    assert "[0] accuracy" in done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("[1]")]
    assert said == []  # what is found is said once
    spec = json.loads((tmp_path / "run/env.json").read_text())
    assert spec["replicas"] == workers


@pytest.mark.slow
def test_killed_at_random_and_started_again(flags: list[str], tmp_path: Path) -> None:
    """Ten kills of a random worker: the others end by themselves and name it, nothing is lost."""
    whole = tmp_path / "whole"
    done = launched(flags, whole, 2)
    assert done.returncode == 0, done.stderr
    draw, run, hits = random.Random(0), tmp_path / "run", []
    for start in range(40):
        processes = launch.started(["train", *flags, f"--workdir={run}", "--strategy=multiworker"],
                                   workers=2)  # fmt: skip
        victim, step = draw.randrange(2), draw.randrange(1, 7)
        before = newest(run)
        while all(p.poll() is None for p in processes) and newest(run) < before + 3 * step:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.1))  # not always right behind a state
        if all(p.poll() is None for p in processes):
            processes[victim].send_signal(signal.SIGKILL)
            codes = launch.ended(processes)
            hits.append((victim, newest(run), codes[1 - victim]))
            assert codes[victim] == -signal.SIGKILL
            assert codes[1 - victim] in (74, 75), codes
            if victim == 1:  # worker 0 holds the folder and says why it ended
                error = json.loads((run / "error.json").read_text())
                assert "worker 1 ended or cannot be reached" in error["what"]
        else:
            assert launch.ended(processes) == [0, 0]
            # The mean of an epoch that was gone on with in its middle is summed in another order.
            check_equal(whole, run, close=1e-6)
            sealed = [(r / "weights/files.json").read_bytes() for r in (whole, run)]
            assert sealed[0] == sealed[1]  # every weight, bit for bit
            print(run.name, "ended; killed worker, step of the state left, exit code:", hits)
            if len(hits) >= 10:
                return
            run = tmp_path / f"run-{start}"
    pytest.fail(f"{len(hits)} kills in 40 starts")


def newest(run: Path) -> int:
    """Step of the newest committed state."""
    names = [path.name.partition("-")[0] for path in (run / "state").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_one_step(flags: list[str], tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert launched(flags, whole, 2).returncode == 0
    command = ["train", *flags, f"--workdir={run}", "--strategy=multiworker"]
    processes = launch.started(command, workers=2)
    while newest(run) < 3 and all(p.poll() is None for p in processes):
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes = launch.ended(processes)
    assert codes == [130, 143]
    assert newest(run) > 0
    # another number of processes may go on
    done = subprocess.run([*COMMAND, *command[:-1]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "replicas: 2 -> 1" in done.stderr
    check_equal(whole, run, close=2e-5)


def gathering(addresses: list[str], after: dict[int, float], limit: float) -> list[str]:
    """What each worker says that comes after so many seconds; the others never come."""
    said = dict.fromkeys(after, "")

    def worker(index: int) -> None:
        time.sleep(after[index])
        try:
            cluster.gather(cluster.Cluster(tuple(addresses), index), seconds=limit)
            said[index] = "all there"
        except WorkerLostError as error:
            said[index] = str(error)

    threads = [threading.Thread(target=worker, args=(index,)) for index in after]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(said.values())


def test_a_late_worker_is_waited_for_with_a_limit() -> None:
    addresses = launch._free_addresses(3)
    assert gathering(addresses, {0: 0, 1: 0.5, 2: 1.5}, 30) == ["all there"] * 3
    one, two = gathering(addresses, {0: 0, 2: 0.2}, 1)
    for message in (one, two):
        assert "waited 1 s for worker 1 (" + addresses[1] in message
        assert "start the same command on all workers" in message
    assert gathering(addresses[:1], {0: 0}, 0) == ["all there"]
    with (
        socket.create_server(("", int(addresses[0].split(":")[1]))),
        pytest.raises(ArgumentError, match="cannot listen at the address of this worker"),
    ):
        cluster.gather(cluster.Cluster(tuple(addresses), 0), seconds=1)


def test_workers_of_another_cluster_are_no_others() -> None:
    """Nor is who sends something else."""
    addresses = launch._free_addresses(3)
    one = cluster.Cluster((addresses[0], addresses[1]), 0)
    other = cluster.Cluster(tuple(addresses), 1)  # which takes the first for its own, too
    failed = []

    def waits(who: cluster.Cluster) -> None:
        try:
            cluster.gather(who, seconds=1.5)
        except WorkerLostError as error:
            failed.append(error.where)

    threads = [threading.Thread(target=waits, args=(who,)) for who in (one, other)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1]))) as talk:
        talk.sendall(b"GET / HTTP/1.1")
    for thread in threads:
        thread.join()
    assert sorted(failed) == sorted([addresses[1], f"{addresses[0]}, {addresses[2]}"])


@pytest.mark.slow
def test_the_command_ends_when_a_worker_does_not_come(tmp_path: Path) -> None:
    config = {"cluster": {"worker": launch._free_addresses(2)},
              "task": {"type": "worker", "index": 0}}  # fmt: skip
    code = (
        "from tltf import cluster; cluster.WAIT_SECONDS = 2\nfrom tltf.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--data=digits", "--backbone=small_cnn",
         "--weights=none", f"--workdir={tmp_path / 'run'}", "--strategy=multiworker"],
        env={**os.environ, "TF_CONFIG": json.dumps(config)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 75
    assert "waited 2 s for worker 1" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/scale-out.md").read_text("utf-8")
    [block] = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-euc", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report/report.html").exists()


def test_what_tf_config_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(good))
    assert cluster.from_environment() == cluster.Cluster(("a:1", "b:2"), 1)
    for bad, text in (
        ("", "no TF_CONFIG"),
        ("{", "not as expected"),
        (json.dumps({**good, "task": {"type": "worker", "index": 2}}), "one of 2"),
        (json.dumps({**good, "task": {"type": "chief", "index": 0}}), "name the chief as worker 0"),
        (json.dumps({"cluster": {}}), "KeyError"),
    ):
        monkeypatch.setenv("TF_CONFIG", bad)
        with pytest.raises(ArgumentError, match=text):
            cluster.from_environment()


def test_launch_refuses_what_it_cannot_run() -> None:
    done = tltf("launch", workers=2)
    assert done.code == 64
    assert "the command is missing, expected train" in done.last_line
    assert tltf("launch", workers=0).code == 64
    assert "TF_CONFIG" not in os.environ
    assert launch._free_addresses(3)[0].startswith("127.0.0.1:")
