"""``make bench-hf``: side by side with Transformers + PyTorch on CPU.

The same weights (all-MiniLM-L6-v2), texts, lengths, batch size and number of threads, one epoch
each, interleaved: theirs, ours, ours, theirs. Ours counts everything but import and start: the
tokenizer, tracing, and for frozen parts the first pass that stores the features.

``--python`` is the interpreter of an environment with torch and transformers; the rows are
reported as not run where it cannot be used.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("python", "", "Interpreter of an environment with torch and transformers.")
flags.DEFINE_string("data", "", "Texts with labels, as for tltf train; made-up ones without.")
flags.DEFINE_integer("n", 256, "Texts of an epoch.", lower_bound=32)
flags.DEFINE_integer("batch_size", 32, "Texts of a step.", lower_bound=1)
flags.DEFINE_integer("epochs", 3, "Epochs of the rows whose frozen part is stored.", lower_bound=1)
flags.DEFINE_integer("threads", 2, "Threads of either side.", lower_bound=1)
flags.DEFINE_string("out", "", "JSON file for the figures.")

ROWS = {"all": "all", "last2": "last:2", "head": "none"}
WORDS = "the film is a quietly moving story about unaffordable houses and people that never talk"


def records() -> tuple[list[str], list[int]]:
    if FLAGS.data:
        from tltf.data import sources

        found = sources.load(FLAGS.data)
        chosen = random.Random(0).sample(found.records, min(FLAGS.n, len(found.records)))
        return [r.text or "" for r in chosen], [found.classes.index(str(r.label)) for r in chosen]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS.split(), k=rng.randint(5, 45))) for _ in range(FLAGS.n)]
    return texts, [i % 2 for i in range(FLAGS.n)]


def theirs(texts: Sequence[str], labels: Sequence[int], folder: Path) -> dict[str, Any]:
    """Seconds of an epoch by row, and texts tokenized per second."""
    import importlib.util

    from tltf.backbones.huggingface import MINILM

    found = importlib.util.find_spec(MINILM)
    request = {
        "model": str(Path(str(found and found.origin)).parent / "model"),
        "texts": list(texts), "labels": list(labels), "classes": max(labels) + 1,
        "max_length": 256, "batch_size": FLAGS.batch_size, "threads": FLAGS.threads,
        "rows": list(ROWS),
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request), "utf-8")
    script = Path(__file__).with_name("hf_reference.py")
    done = subprocess.run(
        [FLAGS.python, str(script), str(folder / "request.json")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ours(texts: Sequence[str], labels: Sequence[int], folder: Path) -> dict[str, Any]:
    """The same; for rows with stored features the first epoch and a later one."""
    import tltf
    from tltf.data.manifest import Record
    from tltf.data.textbatches import TextBatches
    from tltf.training.caching import Cache

    names = [str(i) for i in range(max(labels) + 1)]
    examples = [
        Record(id=str(i), text=text, label=names[label], sha256=f"{i:064x}")
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    found: dict[str, Any] = {}
    for row, unfreeze in ROWS.items():
        backbone = tltf.backbone("minilm")
        model = tltf.classifier(backbone, tltf.head(len(names)))
        begun = time.perf_counter()
        data = TextBatches(
            examples, tokenizer=backbone.tokenizer, max_length=256, classes=names,
            task="single_label", batch_size=FLAGS.batch_size,
        )  # fmt: skip
        small = data.with_records(examples[: FLAGS.batch_size])
        found["tokenize"] = len(texts) / (time.perf_counter() - begun)
        phase = tltf.Phase(
            "one", 1, 2e-5, unfreeze=unfreeze, optimizer="adamw", weight_decay=0.01, clipnorm=1.0
        )
        cache = None if row == "all" else Cache(folder=folder / f"{row}-{time.time_ns()}")
        times = []
        for _ in range(1 if cache is None else 2):
            begun = time.perf_counter()
            tltf.fit_phases(
                model, [phase], data, validation=small, cache=cache, progress=False,
                restore_best=False,
            )  # fmt: skip
            times.append(time.perf_counter() - begun)
        found[row], found[f"{row}_later"] = times[0], times[-1]
    return found


def table(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], epochs: int) -> list[str]:
    """The rows of the note: seconds of an epoch, ratios with their range."""
    lines = ["| row | Transformers | tltf | ratio (range) |", "|---|---|---|---|"]
    for row in ROWS:
        them = [a[row] * (epochs if row != "all" else 1) for a, _ in pairs]
        us = [
            b[row] + (epochs - 1) * b[f"{row}_later"] if row != "all" else b[row] for _, b in pairs
        ]
        what = f"{row}, {epochs} epochs" if row != "all" else "all, 1 epoch"
        lines.append(_line(what, them, us, "s"))
    tokens = [(1 / a["tokenize"], 1 / b["tokenize"]) for a, b in pairs]
    lines.append(_line("tokenize one text", *zip(*tokens, strict=True), "s"))
    return lines


def _line(what: str, them: Sequence[float], us: Sequence[float], unit: str) -> str:
    ratios = sorted(a / b for a, b in zip(them, us, strict=True))
    middle = ratios[len(ratios) // 2]
    return (
        f"| {what} | {min(them):.4g} {unit} | {min(us):.4g} {unit} |"
        f" {middle:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}) |"
    )


def main(_: Sequence[str]) -> None:
    if not FLAGS.python or not Path(FLAGS.python).exists():
        print("not run: no interpreter with torch and transformers; pass --python")
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    texts, labels = records()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            first = theirs(texts, labels, folder)
        except subprocess.CalledProcessError as error:
            print(f"not run: {(error.stderr or '').strip().splitlines()[-1:]}")
            return
        pairs = [(first, ours(texts, labels, folder))]
        again = ours(texts, labels, folder)
        pairs.append((theirs(texts, labels, folder), again))
    print(*table(pairs, FLAGS.epochs), sep="\n")
    if FLAGS.out:
        Path(FLAGS.out).write_text(json.dumps(pairs, indent=2), "utf-8")


if __name__ == "__main__":
    sys.exit(app.run(main))
