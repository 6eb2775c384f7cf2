"""G9, G10, G12: what the store costs in bytes and accuracy, the head's optimum, memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import optimize

from experiments.benchmarks.phases import HEAD_EPOCHS, RATES, TUNE_EPOCHS, UNFREEZE, model_of
from experiments.benchmarks.photos import Photos
from experiments.benchmarks.protocol import Row
from tltf.spec import Phase
from tltf.training import convex, features
from tltf.training.caching import Cache
from tltf.training.fit import fit_phases
from tltf.training.stored import stored_prefixes

DTYPES = ("float32", "float16", "bfloat16", "uint8")
SIZES = (4000, 16000)

TRAINS = """
import resource, sys
from pathlib import Path
import numpy as np
import tltf
from tltf import pipeline
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec
folder, work = Path(sys.argv[1]), Path(sys.argv[2])
spec = TransferSpec(
    data=DataSpec(source=str(folder)), export="none", cache=str(work / "cache"), augment="none",
    backbone=BackboneSpec(name="small_cnn", weights="none", image_size=32), batch_size=32,
    phases=(Phase("head", 2, 1e-3, unfreeze="none"), Phase("tune", 2, 1e-3, unfreeze="last:1")),
)
pipeline.transfer(spec, workdir=work / "run", progress=False, say=lambda _: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def fidelity(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G9: bytes per feature, and test accuracy of a whole run, by storage dtype."""
    del pairs
    test = photos.batches("test")
    rows, exact = [], 0.0
    for dtype in DTYPES:
        folder = work / f"g9-{dtype}"
        shutil.rmtree(folder, ignore_errors=True)
        model = model_of(name, weights, photos)
        plan = [
            Phase("head", HEAD_EPOCHS, RATES[0], unfreeze="none"),
            Phase("tune", TUNE_EPOCHS, RATES[1], unfreeze=UNFREEZE[name]),
        ]
        train = photos.batches("train")
        cache = Cache(folder=folder, dtype=dtype, always=True, say=lambda _: None)
        fit = fit_phases(model, plan, train, validation=photos.batches("val"), cache=cache,
                         progress=False)  # fmt: skip
        right = fit.stored.logits(test).argmax(axis=1) == test.targets().argmax(axis=1)
        accuracy = float(right.mean())
        exact = accuracy if dtype == "float32" else exact
        if dtype != "float32":
            rows.append(Row(goal="G9", what=f"{name} accuracy {dtype} - float32, points",
                            values=(100 * (accuracy - exact),), note=f"n={len(right)}",
                            target=">= -0.1" if dtype == "float16" else None))  # fmt: skip
            rows.append(Row(goal="G9", what=f"{name} bytes per feature, {dtype}",
                            values=(_bytes_a_value(folder, dtype),),
                            target="<= 2.1" if dtype == "float16" else None))  # fmt: skip
    return rows


def _bytes_a_value(folder: Path, dtype: str) -> float:
    """All files of the prefixes of one dtype, over the numbers that they hold."""
    import json

    size = values = 0
    for prefix in stored_prefixes(folder):
        if not prefix.folder.name.endswith(f"-{dtype}"):
            continue
        size += prefix.size_bytes
        for shard in prefix.folder.glob("shard-*/shard.json"):
            fields = json.loads(shard.read_text("utf-8"))
            row = sum(int(np.prod(shape)) for shape, _ in fields["layouts"])
            values += row * len(fields["keys"])
    return size / values


def optimum(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G10: the penalised loss of our head over the minimum found by SciPy to machine precision."""
    del pairs, work
    model = model_of(name, weights, photos)
    from tltf.training import boundary, freezing

    freezing.set_trainable(model, "none")
    compute = features.compiled(boundary.split(model).prefix)
    train, validation = (
        convex.collected(photos.batches(split).eval_dataset(), lambda x: compute(x)[0])
        for split in ("train", "val")
    )
    found = convex.solve(train, validation, task="single_label")
    mean, deviation = train.features.mean(0), train.features.std(0)
    deviation[deviation == 0] = 1
    scaled = ((train.features - mean) / deviation).astype(np.float64)
    targets, classes = train.targets.astype(np.float64), train.targets.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[classes:].reshape(-1, classes), flat[:classes]
        logits = scaled @ kernel + bias
        normal = np.logaddexp.reduce(logits, axis=1)
        errors = np.exp(logits - normal[:, None]) - targets
        value = (normal - (targets * logits).sum(1)).sum()
        value += (kernel**2).sum() * _penalty(classes) / found.strength
        slope = scaled.T @ errors + 2 * _penalty(classes) * kernel / found.strength
        return float(value), np.concatenate([errors.sum(0), slope.ravel()])

    own = np.concatenate([(found.bias + mean @ found.kernel),
                          (found.kernel * deviation[:, None]).ravel()])  # fmt: skip
    best = optimize.minimize(loss, np.zeros_like(own), jac=True, method="L-BFGS-B",
                             options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-9})  # fmt: skip
    ours = loss(own)[0]
    return [Row(goal="G10", what=f"{name} (loss - optimum) / optimum, L-BFGS head",
                values=((ours - best.fun) / best.fun,), target="<= 0.001",
                note=f"C={found.strength:g}, {len(scaled)} x {scaled.shape[1]}")]  # fmt: skip


def _penalty(classes: int) -> float:
    """Two classes are one logit w for scikit-learn: w^2 / 2 is (w/2)^2 + (w/2)^2 over 1."""
    return 1.0 if classes == 2 else 0.5


def memory(photos: Photos, *, name: str, weights: str, pairs: int, work: Path) -> list[Row]:
    """G12: peak memory of a whole run at two sizes; bytes more for each image more."""
    del photos, name, weights, pairs
    import keras

    random = np.random.default_rng(0)
    peaks = []
    for n in SIZES:
        folder, out = work / f"g12-{n}", work / f"g12-{n}-run"
        shutil.rmtree(out, ignore_errors=True)
        if not folder.exists():
            for label in "ab":
                (folder / label).mkdir(parents=True)
            for i in range(n):
                pixels = random.integers(0, 120, (32, 32, 3)) + 130 * (i % 2)
                keras.utils.save_img(folder / "ab"[i % 2] / f"{i}.png", pixels, scale=False)
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", TRAINS, str(folder), str(out)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(1024 * int(done.stdout.split()[-1]))
    slope = (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])
    megabytes = [round(peak / 1e6) for peak in peaks]
    what = f"peak memory, kB for each further image ({SIZES[0]} to {SIZES[1]})"
    return [Row(goal="G12", what=what,
                values=(slope / 1e3,), target="<= 12.3",
                note=f"{megabytes[0]} and {megabytes[1]} MB; one image is 12.3 kB")]  # fmt: skip
