"""Bytes from anywhere at every door: an answer or an error of ours, nothing else, in short time.

The budget is fixed and short here; ``make fuzz`` sets ``TLTF_FUZZ_EXAMPLES`` to a long one.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import logging
from faults import writer

from tltf import sealed, tensorfile
from tltf.backbones import tensorfiles
from tltf.data import headers, imagefile, tables
from tltf.data.manifest import Manifest
from tltf.errors import TltfError
from tltf.spec import BackboneSpec, DataSpec, TransferSpec
from tltf.training import statefiles
from tltf.training.featurestore import FeatureStore

hypothesis = pytest.importorskip("hypothesis", reason="no hypothesis: make test installs it")
st = hypothesis.strategies

EXAMPLES = int(os.environ.get("TLTF_FUZZ_EXAMPLES", "60"))
LONG = "TLTF_FUZZ_EXAMPLES" in os.environ
budget = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def mutated(good: bytes) -> Any:
    """A good file with some bytes replaced, inserted, removed, or cut; or any bytes at all."""
    cut = st.tuples(st.integers(0, len(good)), st.integers(0, 24), st.binary(max_size=24))
    return st.one_of(
        st.binary(max_size=200),
        st.lists(cut, min_size=1, max_size=4).map(lambda cuts: _apply(good, cuts)),
        st.integers(0, len(good)).map(lambda n: good[:n]),
    )


def _apply(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in cuts:
        data = data[:at] + new + data[at + length :]
    return data


def answers(read: Callable[[], object], *others: type[Exception]) -> None:
    try:
        read()
    except (TltfError, *others):
        pass


def temporary(data: bytes, name: str = "file") -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, name)
    path.write_bytes(data)
    return folder, path


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    logging.set_verbosity(logging.FATAL)


def _tensors() -> bytes:
    folder, path = temporary(b"")
    with folder:
        tensorfile.write_tensors(path, {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 4))})
        return path.read_bytes()


@budget
@hypothesis.given(mutated(_tensors()))
def test_tensor_files(data: bytes) -> None:
    folder, path = temporary(data)
    with folder:
        answers(lambda: tensorfile.read_tensors(path))


def _with_header(value: Any) -> bytes:
    head = json.dumps(value).encode()
    return struct.pack("<Q", len(head)) + head + bytes(64)


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@budget
@hypothesis.given(st.one_of(HEADERS.map(_with_header), mutated(_tensors())))
def test_safetensors_of_others(data: bytes) -> None:
    folder, path = temporary(data, "model.safetensors")

    def read() -> None:
        for tensor in tensorfiles.open_folder(path.parent).values():
            np.asarray(tensor).sum()

    with folder:
        answers(read)


SPEC = TransferSpec(data=DataSpec(source="x"), backbone=BackboneSpec(name="VGG16")).to_json()


@budget
@hypothesis.given(mutated(SPEC.encode()))
def test_specifications(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    answers(lambda: TransferSpec.from_json(text))


@budget
@hypothesis.given(HEADERS)
def test_specifications_of_any_shape(value: Any) -> None:
    whole = json.loads(SPEC)
    for key in whole:
        answers(lambda key=key: TransferSpec.from_json(json.dumps({**whole, key: value})))


CSV = b'path,label,group,split,weight\na.png,cat,g1,train,1.0\n"b,c.png",dog,g2,test,2\n'


@budget
@hypothesis.given(mutated(CSV), st.sampled_from(["t.csv", "t.tsv"]))
def test_tables(data: bytes, name: str) -> None:
    folder, path = temporary(data, name)
    with folder:
        answers(lambda: tables.load_table(path))


@budget
@hypothesis.given(mutated(b'{"path": "a.png", "label": ["x", 1], "weight": 2}\n{"path": "b"}\n'))
def test_json_lines(data: bytes) -> None:
    folder, path = temporary(data, "t.jsonl")
    with folder:
        answers(lambda: tables.load_table(path))


STARTS = (b"\xff\xd8\xff\xe1\0\x10Exif\0\0II*\0\x08\0\0\0", b"GIF89a\4\0\4\0\x80\0\0", b"BM",
          b"RIFF\x20\0\0\0WEBPVP8X",
          b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\4\0\0\0\4\x08\2")  # fmt: skip


@budget
@hypothesis.given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_image_headers(start: bytes, rest: bytes) -> None:
    """The part of the scan that runs in this process; pixels are decoded in a child."""
    data = start + rest
    kind = headers.kind_of(data)
    if kind is not None:
        mine = (headers.DamagedError, headers.UnsupportedError)
        answers(lambda: headers.read_header(data, kind), *mine)
    folder, path = temporary(data, "x.png")
    with folder:
        answers(lambda: imagefile.read_image(path), imagefile.UnusableError)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state")
    statefiles.write(folder, writer.state(1))
    return folder


@pytest.mark.parametrize("member", ["state.json", "tensors.safetensors", "files.json"])
def test_state_files(state: Path, member: str) -> None:
    good = (next(state.iterdir()) / member).read_bytes()
    name = next(state.iterdir()).name
    files = {p.name: p.read_bytes() for p in next(state.iterdir()).iterdir()}

    @budget
    @hypothesis.given(mutated(good))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, name)
            folder.mkdir()
            for other, content in {**files, member: data}.items():
                (folder / other).write_bytes(content)
            found = statefiles.newest(Path(place))
            assert (found is not None) == (data == good)

    check()


@pytest.mark.parametrize("member", ["shard.json", "t0.bin"])
def test_feature_shards(tmp_path: Path, member: str) -> None:
    store = FeatureStore(tmp_path, "0" * 64, shapes=[(4,)])
    with store.writer() as rows:
        rows.append(["ab/plain"], [np.ones((1, 4))])
    shard = next(store.folder.glob("shard-*"))
    files = {p.name: p.read_bytes() for p in shard.iterdir()}

    @budget
    @hypothesis.given(mutated(files[member]))
    def check(data: bytes) -> None:
        shard.mkdir(exist_ok=True)
        for other, content in {**files, member: data}.items():
            (shard / other).write_bytes(content)
        again = FeatureStore(tmp_path, "0" * 64, shapes=[(4,)])
        assert ("ab/plain" in again) == (data == files[member])

    check()


@budget
@hypothesis.given(mutated(b'{"task": "single_label", "classes": [], "notes": []}\n{"id": "x"}\n'))
def test_manifests_behind_their_hash(data: bytes) -> None:
    """What is read back is hashed first; the reader itself still ends in plain errors."""
    lines = data.decode("utf-8", "replace").splitlines()
    plain = (ValueError, KeyError, TypeError, IndexError, AttributeError)
    answers(lambda: Manifest.from_json_lines(lines), *plain)


@budget
@hypothesis.given(mutated(b'{\n  "files": {\n    "a": "00"\n  },\n  "seal": "00"\n}\n'))
def test_seals(data: bytes) -> None:
    folder, path = temporary(data, sealed.SEAL)
    with folder:
        with pytest.raises(TltfError):
            sealed.verify(path.parent)
        sealed.remove_own(path.parent)
