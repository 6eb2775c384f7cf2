"""LiteRT and ONNX files answer as the servable does, or are refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tiny

from tltf.errors import ArgumentError, GateError
from tltf.serving import portable
from tltf.serving.decision import Decision

pytest.importorskip("ai_edge_litert", reason="needs the extra [litert]")

DECISION = Decision(task="single_label", classes=("dark", "bright"), temperature=1.5)
IMAGES = (tiny.arrays(40, seed=1)[0] * 255).astype("float32")
TARGETS = tiny.arrays(40, seed=1)[1]


@pytest.fixture(scope="module")
def model():
    """Trained for a moment, so that accuracy means something."""
    found = tiny.classifier()
    found.compile("adam", "mse")
    x, y = tiny.arrays(40)
    found.fit(x * 255, 8 * y - 4, epochs=60, verbose=0)
    return found


@pytest.mark.parametrize(
    ("kind", "allowed"), [("float", 1e-4), ("float16", 0.02), ("dynamic", 0.1), ("int8", 0.2)]
)
def test_every_kind_agrees_with_the_servable(kind: str, allowed: float, model) -> None:
    data = portable.litert_bytes(model, DECISION, kind=kind, images=list(IMAGES))
    run = portable.litert_run(data)
    found = portable.agreement(
        kind, data, run, model=model, decision=DECISION, images=IMAGES, targets=TARGETS
    )
    assert found.largest_difference <= allowed
    assert found.same_label >= 0.95
    assert found.n == 40
    assert found.bytes == len(data)
    portable.check_drop(found, max_drop=5.0)
    assert "same answer on" in found.sentence()
    first = portable.probabilities_function(model, DECISION)(IMAGES[:1])["probabilities"]
    assert np.isfinite(run(IMAGES[0])).all()
    np.testing.assert_allclose(run(IMAGES[0]), first[0], atol=allowed)


def test_a_file_that_loses_accuracy_is_refused(model) -> None:
    def wrong(image: np.ndarray) -> np.ndarray:
        return np.array([0.9, 0.1], "float32")

    found = portable.agreement(
        "broken", b"", wrong, model=model, decision=DECISION, images=IMAGES, targets=TARGETS
    )
    with pytest.raises(GateError, match=r"loses \d+\.\d points of accuracy on 40") as error:
        portable.check_drop(found, max_drop=1.0)
    assert error.value.exit_code == 79
    portable.check_drop(found, max_drop=100.0)


def test_arguments(model) -> None:
    with pytest.raises(ArgumentError, match="expected one of float, float16, dynamic, int8"):
        portable.litert_bytes(model, DECISION, kind="int4")
    with pytest.raises(ArgumentError, match="int8 without training images"):
        portable.litert_bytes(model, DECISION, kind="int8")


def test_nothing_converts_concrete_functions() -> None:
    """It converts and then yields NaN (FACTS 3.7)."""
    from pathlib import Path

    for path in Path(portable.__file__).parents[1].rglob("*.py"):
        assert ".from_concrete_functions(" not in path.read_text("utf-8"), path


ONNX = """
import sys
import numpy as np
sys.path[:0] = sys.argv[1].split(":")
import tiny
from tltf.serving import portable
from tltf.serving.decision import Decision
model = tiny.classifier()
decision = Decision(task="single_label", classes=("a", "b"), temperature=2.0)
data = portable.onnx_bytes(model, decision)
images = (tiny.arrays(12)[0] * 255).astype("float32")
found = portable.agreement("onnx", data, portable.onnx_run(data), model=model, decision=decision,
                           images=images, targets=None)
assert found.largest_difference < 1e-4 and found.same_label == 1.0, found
assert "tf_keras" not in sys.modules
print("agrees")
"""


@pytest.mark.slow
def test_onnx_agrees() -> None:
    """In a process of its own: tf2onnx patches what it converts with."""
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    done = subprocess.run(
        [sys.executable, "-c", ONNX, ":".join(sys.path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "agrees" in done.stdout, done.stderr[-3000:]
