"""Augmentation as text: what it means, and what is refused, without TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tltf.errors import ArgumentError
from tltf.policies import POLICIES, Policy, policy
from tltf.spec import BackboneSpec, DataSpec, TransferSpec


@pytest.mark.parametrize("name", POLICIES)
def test_a_name_is_its_policy(name: str) -> None:
    assert policy(name) == POLICIES[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flip", Policy(flip=True)),
        ("flip,shear=0.2,zoom=0.2", Policy(flip=True, shear=0.2, zoom=0.2)),
        (" zoom = 0.2 , flip=true ", Policy(flip=True, zoom=0.2)),
        ("flip=false,rotation=10", Policy(rotation=10.0)),
        ("brightness=.1,contrast=1e-1", Policy(brightness=0.1, contrast=0.1)),
        ("zoom=0.3,fill=constant", Policy(zoom=0.3, fill="constant")),
    ],
)
def test_ranges_are_read_in_any_order(text: str, expected: Policy) -> None:
    assert policy(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mediun", "unknown 'mediun'.*did you mean 'medium'"),
        ("flip,shaer=0.2", "unknown 'shaer'.*did you mean 'shear'"),
        ("light,flip", "'light' stands alone"),
        ("", "unknown ''"),
        ("flip,", "unknown ''"),
        ("flip,zoom=0.1,zoom=0.2", "gives zoom twice"),
        ("zoom", "zoom='', expected a number"),
        ("zoom=much", "zoom='much', expected a number"),
        ("zoom=1", r"zoom=1.0, expected a number in \[0, 1\)"),
        ("shear=-0.1", r"shear=-0.1, expected a number in \[0, 1\]"),
        ("rotation=181", r"rotation=181.0, expected a number in \[0, 180\]"),
        ("contrast=nan", "contrast=nan"),
        ("brightness=inf", "brightness=inf"),
        ("flip=0.5", "flip='0.5' has no amount"),
        ("zoom=0.1,fill=black", "fill='black', expected one of reflect"),
        ("zoom=0.1,fill", "fill='', expected one of reflect"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        policy(text)
    assert caught.value.exit_code == 64
    with pytest.raises(ArgumentError, match=message):
        TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="VGG16"), augment=text)


def test_the_text_travels_in_the_specification() -> None:
    spec = TransferSpec(
        data=DataSpec(source="x"), backbone=BackboneSpec(name="VGG16"), augment="flip,zoom=0.2"
    )
    assert TransferSpec.from_json(spec.to_json()).augment == "flip,zoom=0.2"


def test_the_flag_is_checked_without_tensorflow() -> None:
    code = """
import sys
from tltf.cli import app
code = app.dispatch(["train", "--data=.", "--backbone=VGG16", "--workdir=x", "--augment=zom=1"])
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "did you mean 'zoom'" in done.stderr
