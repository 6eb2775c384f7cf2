"""What serving costs: one request, decoding, a cold start, and many files (G13).

    python -m experiments.benchmarks.serving --workdir=FOLDER

G13: p50 of one request through the servable's ``predict`` against the bare concrete function of
the same network on the same image, calls interleaved. The other rows: ``serving_default`` on a
photo's bytes against that (what decoding in the graph costs), the seconds from the start of a
process to the first answer, and images per second of ``tltf predict``'s generator against the bare
function on images that are already decoded. Random weights: time only.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from experiments.benchmarks.quality import unpacked
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required

FLAGS = flags.FlagValues()
flags.DEFINE_string("set", "cats_dogs", "Image set.", flag_values=FLAGS)
flags.DEFINE_string("backbone", "MobileNetV2", "Of any weights.", flag_values=FLAGS)
flags.DEFINE_integer(
    "requests", 60, "Of each kind, interleaved.", lower_bound=10, flag_values=FLAGS
)
flags.DEFINE_string("workdir", None, "Where the servable goes.", flag_values=FLAGS)

COLD = """
import sys, time
started = time.monotonic()
import tensorflow as tf
imported = time.monotonic()
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
loaded = time.monotonic()
answer(image_bytes=tf.constant([open(sys.argv[2], "rb").read()]))
print(imported - started, loaded - imported, time.monotonic() - loaded)
"""


def run(values: flags.FlagValues) -> None:
    required(values, "workdir")
    work = Path(values["workdir"].value)
    work.mkdir(exist_ok=True)
    import_tensorflow()
    photos = sorted(path for path in unpacked(values["set"].value, work / "data").rglob("*.jpg"))
    model, folder = _servable(values["backbone"].value, photos, work)
    rows = [
        *one_request(model, folder, photos[0], values["requests"].value),
        *cold_start(folder, photos[0]),
        throughput(model, folder, photos[:128]),
    ]
    for row in rows:
        print("{what:<58} {median:8.3f} ({low:.3f} to {high:.3f})  {target}".format(**row))
    (work / "serving.json").write_text(json.dumps(rows, indent=2) + "\n")


def _servable(backbone: str, photos: list[Path], work: Path) -> tuple[Any, Path]:
    import tltf

    base = tltf.backbone(backbone, weights="none")
    model = tltf.classifier(base, tltf.head(2))
    return model, tltf.export(model, labels=("a", "b"), to=work / "served", examples=photos[:32])


def one_request(model: Any, folder: Path, photo: Path, requests: int) -> list[dict[str, Any]]:
    """Ratios of the medians of three ways to ask, in ten interleaved blocks."""
    import tensorflow as tf

    from tltf.data import decoding

    side = model.input_shape[1]
    data = tf.constant([photo.read_bytes()])
    image = decoding.resize(decoding.decode(data[0]), side)[None]
    spec = tf.TensorSpec([None, side, side, 3], tf.float32)
    bare = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    loaded = tf.saved_model.load(str(folder))
    ways: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(image),
        "predict": lambda: loaded.signatures["predict"](images=image),
        "serving_default": lambda: loaded.signatures["serving_default"](image_bytes=data),
    }
    for way in ways.values():
        for _ in range(5):
            way()
    ratios: dict[str, list[float]] = {"predict": [], "serving_default": []}
    milliseconds = []
    for _ in range(10):
        block: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(max(1, requests // 10)):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                block[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(seconds) for name, seconds in block.items()}
        milliseconds.append(1000 * medians["bare"])
        for name, found in ratios.items():
            found.append(medians[name] / medians["bare"])
    return [
        _row("bare concrete function, one image, ms", milliseconds),
        _row("G13 predict / bare concrete function", ratios["predict"], "target <= 1.10"),
        _row("serving_default from JPEG bytes / bare function", ratios["serving_default"]),
    ]


def cold_start(folder: Path, photo: Path, repeats: int = 3) -> list[dict[str, Any]]:
    """Seconds in a new process: import, load, first answer."""
    found = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", COLD, str(folder), str(photo)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append([float(word) for word in done.stdout.split()])
    names = ("import tensorflow", "load the servable", "first answer")
    return [
        _row(f"cold start, {name}, seconds", list(column))
        for name, column in zip(names, zip(*found, strict=True), strict=True)
    ]


def throughput(model: Any, folder: Path, photos: list[Path], repeats: int = 5) -> dict[str, Any]:
    """Images per second of predictions() / those of the bare function on decoded images."""
    import numpy as np
    import tensorflow as tf

    from tltf.data import decoding
    from tltf.serving.inputs import Item
    from tltf.serving.predicting import open_servable, predictions

    side = model.input_shape[1]
    opened = open_servable(folder)
    images = np.stack([decoding.load_image(path, side) for path in photos])
    bare = tf.function(lambda x: model(x, training=False))
    ratios = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for i in range(0, len(images), 32):
            bare(images[i : i + 32])
        between = time.perf_counter()
        items = iter([Item(str(path), path=str(path)) for path in photos])
        done = sum("label" in row for row in predictions(opened, items))
        ended = time.perf_counter()
        assert done == len(photos)
        ratios.append((between - started) / (ended - between))
    return _row("tltf predict, images/s / bare function on decoded", ratios[1:])


def _row(what: str, values: list[float], target: str = "") -> dict[str, Any]:
    return {
        "what": what,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "target": target,
    }


PROGRAM = Program(
    name="experiments.benchmarks.serving",
    about="one request, decoding in the graph, cold start and throughput of a servable.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))
