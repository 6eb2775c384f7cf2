"""``make bench-hf``: side by side with Transformers + PyTorch on CPU.

The same weights (all-MiniLM-L6-v2), texts, lengths, batch size, epochs and number of threads, in
one run, interleaved: theirs, ours, ours, theirs. No text is cut on either side. A row has two
lines. ``an epoch`` is the median of the epochs behind the first, ours with validation. The other is
all epochs from the start: ours counts everything but import (loading, encoding the texts, tracing,
the first pass that stores features, validation), theirs the training only. ``two phases`` is ten
epochs of the head and then the last two layers with it; the accuracies say whether the faster one
paid with quality.

``--python`` is the interpreter of an environment with torch and transformers; the rows are
reported as not run where it cannot be used.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.benchmarks import text_sets

FLAGS = flags.FLAGS
flags.DEFINE_string("python", "", "Interpreter of an environment with torch and transformers.")
flags.DEFINE_string("data", "", "sst2, mr, trec, or as for tltf train; made-up texts without.")
flags.DEFINE_integer("n", 1000, "Texts of an epoch.", lower_bound=32)
flags.DEFINE_integer("held", 500, "Texts for the accuracy.", lower_bound=32)
flags.DEFINE_list("rows", ["all", "last2", "head", "two phases"], "Which.")
flags.DEFINE_integer("batch_size", 32, "Texts of a step.", lower_bound=1)
flags.DEFINE_integer("epochs", 3, "Of each phase but the head's in two.", lower_bound=1)
flags.DEFINE_integer("threads", 2, "Threads of either side.", lower_bound=1)
flags.DEFINE_string("out", "", "JSON file for the figures.")

PARTS = {"all": "all", "last2": "last:2", "head": "none"}
MOST_TOKENS = 256
TOKENIZED_TIMES = 9
"""The first time is not counted; the median of the others is."""
RATES = {"all": 5e-5, "last2": 5e-5, "head": 1e-3}
WORDS = "the film is a quietly moving story about unaffordable houses and people that never talk"


def rows() -> dict[str, list[dict[str, Any]]]:
    """The phases of each row: what trains, for how long, at which rate."""
    found = {part: [{"part": part, "epochs": FLAGS.epochs, "rate": RATES[part]}] for part in PARTS}
    found["two phases"] = [
        {"part": "head", "epochs": 10, "rate": RATES["head"]},
        {"part": "last2", "epochs": FLAGS.epochs, "rate": RATES["last2"]},
    ]
    return {row: found[row] for row in FLAGS.rows}


def records() -> tuple[list[str], list[int]]:
    """The texts of an epoch, and behind them those for the accuracy."""
    most = FLAGS.n + FLAGS.held
    if FLAGS.data:
        from tltf.data import sources

        with tempfile.TemporaryDirectory() as place:
            found = sources.load(str(text_sets.table(FLAGS.data, Path(place))))
        chosen = random.Random(0).sample(found.records, min(most, len(found.records)))
        return [r.text or "" for r in chosen], [found.classes.index(str(r.label)) for r in chosen]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS.split(), k=rng.randint(5, 45))) for _ in range(most)]
    return texts, [i % 2 for i in range(most)]


def theirs(texts: Sequence[str], labels: Sequence[int], folder: Path) -> dict[str, Any]:
    """Seconds and accuracy by row, and texts tokenized per second."""
    import importlib.util

    from tltf.backbones.huggingface import MINILM

    found = importlib.util.find_spec(MINILM)
    n = len(texts) - FLAGS.held
    request = {
        "model": str(Path(str(found and found.origin)).parent / "model"),
        "texts": texts[:n], "labels": labels[:n], "held_texts": texts[n:],
        "held_labels": labels[n:], "classes": max(labels) + 1, "max_length": MOST_TOKENS,
        "batch_size": FLAGS.batch_size, "threads": FLAGS.threads, "rows": rows(),
        "tokenized_times": TOKENIZED_TIMES,
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request), "utf-8")
    script = Path(__file__).with_name("hf_reference.py")
    done = subprocess.run(
        [FLAGS.python, str(script), str(folder / "request.json")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ours(texts: Sequence[str], labels: Sequence[int], folder: Path) -> dict[str, Any]:
    """The same; a row's time begins before its weights are read."""
    import tltf
    from tltf.data.manifest import Record
    from tltf.data.textbatches import TextBatches, rounded, token_counts
    from tltf.training.caching import Cache

    names = [str(i) for i in range(max(labels) + 1)]
    examples = [
        Record(id=str(i), text=text, label=names[label], sha256=f"{i:064x}")
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    n = len(texts) - FLAGS.held
    found: dict[str, Any] = {"tokenize": _tokenized(texts[:n])}
    for row, asked in rows().items():
        begun = time.perf_counter()
        backbone = tltf.backbone("minilm")
        model = tltf.classifier(backbone, tltf.head(len(names)))
        lengths = token_counts(backbone.tokenizer, texts, most=MOST_TOKENS)
        data = TextBatches(
            examples[:n], tokenizer=backbone.tokenizer, classes=names, task="single_label",
            max_length=rounded(int(lengths.max()), MOST_TOKENS), batch_size=FLAGS.batch_size,
        )  # fmt: skip
        phases = [
            tltf.Phase(str(i), phase["epochs"], phase["rate"], unfreeze=PARTS[phase["part"]],
                       optimizer="adamw", weight_decay=0.01, clipnorm=1.0)
            for i, phase in enumerate(asked)
        ]  # fmt: skip
        fitted = tltf.fit_phases(
            model, phases, data, validation=data.with_records(examples[n : n + FLAGS.batch_size]),
            cache=Cache(folder=folder / f"{row}-{time.time_ns()}"), progress=False,
            restore_best=False,
        )  # fmt: skip
        found[row] = time.perf_counter() - begun
        last = [r["epoch_seconds"] for r in fitted.history if r["phase"] == phases[-1].name]
        found[f"{row}_epoch"] = statistics.median(last[1:] or last)
        held = data.with_records(examples[n:])
        said = model.predict(held.eval_dataset().map(lambda x, *_: x), verbose=0).argmax(axis=1)
        found[f"{row}_accuracy"] = float((said == held.targets().argmax(axis=1)).mean())
    return found


def _tokenized(texts: Sequence[str]) -> float:
    """Texts encoded per second, once the encoder is traced, as theirs is warm too."""
    import tltf
    from tltf.data.textbatches import encode

    tokenizer = tltf.backbone("minilm").tokenizer
    taken = []
    for _ in range(TOKENIZED_TIMES + 1):
        begun = time.perf_counter()
        encode(tokenizer, texts, max_length=MOST_TOKENS)
        taken.append(time.perf_counter() - begun)
    return len(texts) / statistics.median(taken[1:])


def table(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """The rows of the note: seconds, ratios with their range, accuracy of either."""
    lines = ["| row | Transformers | tltf | ratio (range) | accuracy |", "|---|---|---|---|---|"]
    for row, asked in rows().items():
        them, us = [a[row] for a, _ in pairs], [b[row] for _, b in pairs]
        right = " and ".join(
            f"{statistics.mean(pair[side][f'{row}_accuracy'] for pair in pairs):.3f}"
            for side in (0, 1)
        )
        epochs = " + ".join(str(phase["epochs"]) for phase in asked)
        each = ([side[f"{row}_epoch"] for side in sides] for sides in zip(*pairs, strict=True))
        lines.append(f"{_line(f'{row}, an epoch', *each)} |")
        lines.append(f"{_line(f'{row}, {epochs} epochs', them, us)} {right} |")
    tokens = [(1 / a["tokenize"], 1 / b["tokenize"]) for a, b in pairs]
    return [*lines, f"{_line('tokenize one text', *zip(*tokens, strict=True))} |"]


def _line(what: str, them: Sequence[float], us: Sequence[float]) -> str:
    ratios = sorted(a / b for a, b in zip(them, us, strict=True))
    return (
        f"| {what} | {statistics.median(them):.4g} s | {statistics.median(us):.4g} s |"
        f" {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
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
    print(*table(pairs), sep="\n")
    if FLAGS.out:
        Path(FLAGS.out).write_text(json.dumps(pairs, indent=2), "utf-8")


if __name__ == "__main__":
    sys.exit(app.run(main))
