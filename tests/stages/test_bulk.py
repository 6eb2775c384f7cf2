"""Features and predictions shard by shard: what one pass gives, after kills too; also by Beam."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from commands import tltf
from pictures import write_digit_folder
from PIL import Image
from sklearn.datasets import load_digits

from tltf.errors import MismatchError
from tltf.stages import bulk
from tltf.stages.bulk import EMBED, Job, Worker

COMMAND = [sys.executable, "-c", "from tltf.cli.app import main; main()"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 digits, of which one is cut off and one is no picture."""
    folder = write_digit_folder(tmp_path_factory.mktemp("many") / "digits", (0, 1, 2), 30)
    (folder / "0/000.png").write_bytes((folder / "0/001.png").read_bytes()[:60])
    (folder / "2/007.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    data = write_digit_folder(folder / "digits", (0, 1, 2), 30)
    done = tltf("pretrain", data=data, workdir=folder / "run", scratch_epochs=1, image_size=8)
    assert done.code == 0, done.err
    return folder / "run"


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"{kind}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_predictions_are_those_of_one_pass(source: Path, digits: Path, tmp_path: Path) -> None:
    whole = {row["id"]: row for row in tltf("predict", model=source, inputs=digits).rows}
    flags = {"model": source, "inputs": digits, "out": tmp_path / "out", "shards": 4}
    done = tltf("predict", **flags)
    assert done.code == 0, done.err
    assert "88 done, 2 failed" in done.err
    found = rows_of(tmp_path / "out", "predictions")
    assert {row["id"] for row in found} == set(whole)
    for row in found:
        expected = whole[row["id"]]
        assert row.get("label") == expected.get("label")
        if "probabilities" in row:
            np.testing.assert_allclose(row["probabilities"], expected["probabilities"], atol=1e-6)
    bad = rows_of(tmp_path / "out", "bad")
    assert {Path(row["id"]).name for row in bad} == {"000.png", "007.png"}
    assert all(row["error"] for row in bad)
    total = json.loads((tmp_path / "out/total.json").read_text())
    assert total == {"inputs": 90, "failed": 2, "shards": 4}
    other = tltf("predict", **{**flags, "shards": 5})
    assert other.code == 78
    assert "shards: 4 -> 5" in other.last_line


def test_only_what_is_missing_is_done_again(
    source: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"model": source, "inputs": digits, "out": tmp_path / "out", "shards": 3}
    assert tltf("predict", **flags).code == 0
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("predictions-*")}
    (tmp_path / "out/done-00001-of-00003.json").unlink()
    done: list[int] = []
    real = Worker._predict
    monkeypatch.setattr(
        Worker, "_predict", lambda self, shard: done.append(shard) or real(self, shard)
    )
    assert tltf("predict", **flags).code == 0
    assert done == [1]
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("predictions-*")}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"predictions-00001-of-00003.jsonl"}


def test_a_job_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its record has no encoding; another encoding is another job."""
    job = Job(kind=EMBED, inputs="t.csv", out=str(tmp_path), shards=1)
    bulk.begin(job)
    record = json.loads((tmp_path / bulk.JOB).read_text())
    del record["encoding"]
    (tmp_path / bulk.JOB).write_text(json.dumps(record))
    bulk.begin(job)
    with pytest.raises(MismatchError, match="encoding: auto -> latin-1"):
        bulk.begin(dataclasses.replace(job, encoding="latin-1"))


@pytest.mark.parametrize("form", ["tfrecord", "parquet", "arrayrecord"])
def test_features_as_files(form: str, source: Path, digits: Path, tmp_path: Path) -> None:
    needed = {"parquet": "pyarrow", "arrayrecord": "array_record"}.get(form)
    if needed:
        pytest.importorskip(needed)
    done = tltf("embed", inputs=digits, backbone=f"file:{source}", out=tmp_path / "out", shards=2,
                format=form)  # fmt: skip
    assert done.code == 0, done.err
    found: dict[str, np.ndarray] = {}
    for file in sorted((tmp_path / "out").glob(f"features-*.{form}")):
        found |= _read(form, file)
    network = bulk.Network(Job(kind=EMBED, inputs="", out="", shards=1, backbone=f"file:{source}",
                               form=form))  # fmt: skip
    names = sorted(set(map(str, digits.rglob("*.png"))) - {str(digits / "0/000.png"),
                                                           str(digits / "2/007.png")})  # fmt: skip
    records = [bulk.Record(id=name, path=name) for name in names]
    expected = network.features(records).features
    assert sorted(found) == names
    np.testing.assert_allclose(np.stack([found[name] for name in names]), expected, atol=1e-6)


def _read(form: str, file: Path) -> dict[str, np.ndarray]:
    if form == "parquet":
        from pyarrow import parquet

        table = parquet.read_table(file).to_pydict()
        return dict(zip(table["id"], map(np.array, table["features"]), strict=True))
    if form == "arrayrecord":
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(file))
        examples = reader.read_all()
    else:
        examples = [x.numpy() for x in tf.data.TFRecordDataset(str(file))]
    rows = {}
    for data in examples:
        fields = tf.train.Example.FromString(data).features.feature
        name = fields["id"].bytes_list.value[0].decode()
        rows[name] = np.array(fields["features"].float_list.value)
    return rows


def test_a_store_that_a_training_finds(source: Path, digits: Path, tmp_path: Path) -> None:
    """Every row of the head phase is there already."""
    good = shutil.copytree(digits, tmp_path / "good")
    (good / "0/000.png").unlink()
    (good / "2/007.png").unlink()
    flags = {"backbone": f"file:{source}", "image_size": 8}
    done = tltf("embed", inputs=good, out=tmp_path / "store", shards=3, **flags)
    assert done.code == 0, done.err
    run = tltf("train", data=good, workdir=tmp_path / "run", cache=tmp_path / "store",
               head_epochs=1, tune_epochs=0, export="none", **flags)  # fmt: skip
    assert run.code == 0, run.err
    assert "0 rows computed" in run.err
    assert ", 75 found" in run.err


def test_what_it_refuses(source: Path, digits: Path, tmp_path: Path) -> None:
    for command, flags, code, words in (
        ("embed", {"inputs": tmp_path / "no"}, 66, "no files"),
        ("embed", {"backbone": "VGG15"}, 64, "did you mean"),
        ("embed", {"runner": "SparcRunner"}, 64, "SparkRunner"),
        ("predict", {"model": source, "inputs": "-"}, 64, "read again after a kill"),
    ):
        given = {"inputs": digits, "out": tmp_path / "out", **flags}
        if command == "embed":
            given = {"backbone": f"file:{source}", **given}
        done = tltf(command, **given)
        assert done.code == code, done.err
        assert words in done.last_line


BEAM_IMAGES = 20_000
BEAM_WORKER = b"apache_beam.runners.worker.sdk_worker_main"


@pytest.mark.slow
def test_beam_in_two_processes_killed_and_started_again(source: Path, tmp_path: Path) -> None:
    """20,000 images, one in a hundred of them corrupt; ``make beam`` runs it.

    The rows of the store are bit for bit those that are computed here, what was finished before
    the kill is not done again, and every corrupt file is named.
    """
    pytest.importorskip("apache_beam")
    data = noisy_digits(tmp_path / "digits", BEAM_IMAGES)
    bad = sorted(data.rglob("*.png"))[::100]
    for i, path in enumerate(bad):
        path.write_bytes(b"no picture" if i % 2 else path.read_bytes()[:60])
    flags = [f"--inputs={data}", f"--backbone=file:{source}", "--image_size=8", "--shards=20"]
    cache = {**os.environ, "TLTF_CACHE_DIR": str(tmp_path / "cache")}  # of its own: scans anew
    here = [*COMMAND, "embed", *flags, f"--out={tmp_path / 'here'}"]
    subprocess.run(here, check=True, capture_output=True)
    far = [*COMMAND, "embed", *flags, f"--out={tmp_path / 'far'}", "--runner=DirectRunner",
           "--beam=--direct_num_workers=2,--direct_running_mode=multi_processing"]  # fmt: skip
    process = subprocess.Popen(far, start_new_session=True, env=cache)
    done, workers = tmp_path / "far", 0
    while process.poll() is None and len(list(done.glob("done-*"))) < 5:
        workers = max(workers, len(_beam_workers(process.pid)))
        time.sleep(0.05)
    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
    process.wait()
    assert workers == 2
    first = {p.name: p.stat().st_mtime_ns for p in done.glob("done-*")}
    assert 0 < len(first) < 20
    again = subprocess.run(far, capture_output=True, text=True, check=False, env=cache)
    assert again.returncode == 0, again.stderr
    for name, when in first.items():
        assert (done / name).stat().st_mtime_ns == when, name
    assert {row["id"] for row in rows_of(done, "bad")} == {str(path) for path in bad}
    far_rows, here_rows = _stored(done), _stored(tmp_path / "here")
    print(f"{len(first)} of 20 shards before the kill; {len(far_rows)} rows, {len(bad)} bad")
    assert len(here_rows) == BEAM_IMAGES - len(bad)
    assert far_rows == here_rows


def noisy_digits(folder: Path, count: int) -> Path:
    """Different pictures: the digits, each some times with its own noise."""
    digits = load_digits()
    random = np.random.default_rng(0)
    for i in range(count):
        k = i % len(digits.images)
        pixels = digits.images[k] * 15 + random.integers(0, 16, (8, 8))
        place = folder / str(digits.target[k])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i:05d}.png")
    return folder


def _beam_workers(session: int) -> list[int]:
    """Processes of a session that run Beam's worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[3]) == session and BEAM_WORKER in words:
            found.append(int(folder.name))
    return found


def _stored(folder: Path) -> dict[str, bytes]:
    """Key of a float32 row -> its bytes."""
    rows = {}
    for shard in folder.glob("*-float32/shard-*/shard.json"):
        keys = json.loads(shard.read_text())["keys"]
        data = (shard.parent / "t0.bin").read_bytes()
        size = len(data) // len(keys)
        rows |= {key: data[i * size : (i + 1) * size] for i, key in enumerate(keys)}
    return rows
