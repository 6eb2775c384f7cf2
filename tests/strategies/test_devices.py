"""Two devices, and two or four processes, give the losses, metrics and weights of one: both phases,
an uneven last batch.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import tltf
from pictures import write_digit_folder

from tltf.cli import launch
from tltf.errors import ArgumentError
from tltf.trained import load
from tltf.training.strategies import Distribution, distribution

TESTS = Path(__file__).parents[1]


KINDS = [
    ("tiny", "frozen", 1e-6),
    # Keras' synchronised BatchNorm takes E[x^2] - E[x]^2, one device the mean of squares
    pytest.param("tiny", "adapt", 5e-5, marks=pytest.mark.slow),
    pytest.param("bert", "frozen", 1e-6, marks=pytest.mark.slow),
    pytest.param("MobileNetV2", "frozen", 1e-6, marks=pytest.mark.slow),
    pytest.param("MobileNetV2", "adapt", 1e-6, marks=pytest.mark.slow),
    pytest.param("bert+lora", "frozen", 1e-6, marks=pytest.mark.slow),
    pytest.param("tiny+swa", "frozen", 1e-6, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """What a single device gives, computed once."""
    folder = tmp_path_factory.mktemp("one")

    @functools.cache
    def reference(kind: str, batch_norm: str) -> Path:
        file = folder / f"{kind}-{batch_norm}"
        [(code, _, err)] = run_all([(kind, batch_norm, "none", file)], [None])
        assert code == 0, err
        return file

    return reference


def run_all(
    arguments: list[tuple[object, ...]], configs: list[str | None]
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of ``devices.py`` in one process for each TF_CONFIG."""
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / "strategies/devices.py", *map(str, given)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths),
                 **({"TF_CONFIG": config} if config else {})},
        )
        for given, config in zip(arguments, configs, strict=True)
    ]  # fmt: skip
    with ThreadPoolExecutor(len(processes)) as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=500), processes))
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


def check_close(out: str, what: str, close: float) -> None:
    found = json.loads(out.splitlines()[-1])
    print(what, found["metrics"], found["weights"])
    assert found["metrics"] <= 1e-6
    assert found["weights"] <= close


@pytest.mark.parametrize(("kind", "batch_norm", "close"), KINDS)
def test_two_devices_are_one(
    kind: str, batch_norm: str, close: float, one_device: Callable[[str, str], Path]
) -> None:
    reference = one_device(kind, batch_norm)
    [(code, out, err)] = run_all([(kind, batch_norm, "mirrored", reference)], [None])
    assert code == 0, err
    check_close(out, f"{kind} {batch_norm}, 2 devices", close)


@pytest.mark.slow
def test_parts_on_two_devices(one_device: Callable[[str, str], Path]) -> None:
    """Each device takes its half of the batch in parts of at most three examples."""
    reference = one_device("tiny", "frozen")
    [(code, out, err)] = run_all([("tiny", "frozen", "mirrored", reference, 3)], [None])
    assert code == 0, err
    check_close(out, "tiny frozen, 2 devices in parts", 1e-6)
    [(code, _, err)] = run_all([("tiny", "adapt", "mirrored", reference, 3)], [None])
    assert code != 0
    assert "whose statistics are of the whole batch" in err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize(("kind", "batch_norm", "close"), KINDS[2:])
def test_several_processes_are_one(
    workers: int, kind: str, batch_norm: str, close: float, one_device: Callable[[str, str], Path]
) -> None:
    reference = one_device(kind, batch_norm)
    addresses = launch._free_addresses(workers)
    configs: list[str | None] = [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
        for i in range(workers)
    ]
    ended = run_all([(kind, batch_norm, "multiworker", reference)] * workers, configs)
    assert [code for code, _, _ in ended] == [0] * workers, ended
    for _, out, _ in ended:
        check_close(out, f"{kind} {batch_norm}, {workers} processes", close)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, text in (("mirored", "expected one of none, mirrored"),
                       ("multiworker", "no TF_CONFIG"),
                       ("tpu", "no TPU")):  # fmt: skip
        with pytest.raises(ArgumentError, match=text):
            distribution(name)
    two = Distribution()
    two.replicas = 2
    two.check_batch(8)
    with pytest.raises(ArgumentError, match=r"batch_size=9 on 2 replicas.*use --batch_size=10"):
        two.check_batch(9)


def test_one_device_goes_keras_own_way() -> None:
    assert distribution("none").replicas == 1
    assert distribution("none").strategy is None


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tltf.cli.app import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_command_with_and_without(tmp_path: Path) -> None:
    """``tltf train --strategy=mirrored``: the same report, a servable, and the store is used."""
    data = write_digit_folder(tmp_path / "digits", (0, 1, 2), 31)
    source = tltf("pretrain", data=data, workdir=tmp_path / "source", scratch_epochs=2,
                  image_size=8, export="none")  # fmt: skip
    assert source.code == 0, source.err
    reports, weights = {}, {}
    for name in ("none", "mirrored"):
        run = tmp_path / name
        flags = {"data": data, "workdir": run, "backbone": f"file:{tmp_path / 'source'}",
                 "image_size": 8, "head_epochs": 2, "tune_epochs": 3, "unfreeze": "last:1",
                 "dropout": 0, "batch_size": 16, "strategy": name,
                 "cache": tmp_path / f"cache-{name}"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", TWO_DEVICES, "train", *(f"--{k}={v}" for k, v in flags.items())],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "an example in half precision" in done.stderr
        reports[name] = json.loads((run / "report/report.json").read_text())
        weights[name] = load(run / "weights").model.get_weights()
        assert json.loads((run / "env.json").read_text())["replicas"] == 1 + (name == "mirrored")
        assert (run / "export/1/saved_model.pb").exists()
    assert reports["none"]["metrics"].keys() == reports["mirrored"]["metrics"].keys()
    for key, metric in reports["none"]["metrics"].items():
        other = reports["mirrored"]["metrics"][key]["value"]
        assert other == pytest.approx(metric["value"], abs=2e-3), key
    for one, two in zip(weights["none"], weights["mirrored"], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
