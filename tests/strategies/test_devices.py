"""Two devices give the losses, metrics and weights of one: both phases, an uneven last batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tltf.errors import ArgumentError
from tltf.training.strategies import Distribution, distribution

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("kind", "batch_norm", "close"),
    [
        ("tiny", "frozen", 1e-6),
        # Keras' synchronised BatchNorm takes E[x^2] - E[x]^2, one device the mean of squares
        pytest.param("tiny", "adapt", 5e-5, marks=pytest.mark.slow),
        pytest.param("bert", "frozen", 1e-6, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", "frozen", 1e-6, marks=pytest.mark.slow),
        pytest.param("MobileNetV2", "adapt", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_two_devices_are_one(kind: str, batch_norm: str, close: float) -> None:
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, TESTS / "strategies/devices.py", kind, batch_norm],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(kind, batch_norm, found["metrics"], found["weights"])
    assert found["metrics"] <= 1e-6
    assert found["weights"] <= close


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, text in (("mirored", "expected one of none, mirrored"),
                       ("multiworker", "without TF_CONFIG"),
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
