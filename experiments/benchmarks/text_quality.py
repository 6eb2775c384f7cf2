"""Few-label curves of texts: frozen features against TF-IDF, both under the same classifier.

  python -m experiments.benchmarks.text_quality --data=SST2.jsonl --out=FIGURES.json

For 8, 32 and 128 labels per class, and all of them: the accuracy on one test split of logistic
regression (its strength chosen by cross-validation on the labels that there are) on the pooled
features and on TF-IDF of words and pairs of words; mean over seeds, which draw the labels.
``--tune_epochs=N`` adds the two-phase fine-tuning of ``tltf train`` on the same draws.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Texts, as for tltf train.", required=True)
flags.DEFINE_string("backbone", "minilm", "A text backbone.")
flags.DEFINE_list("shots", ["8", "32", "128", "0"], "Labels per class; 0 for all.")
flags.DEFINE_integer("seeds", 5, "Draws of the labels.", lower_bound=1)
flags.DEFINE_integer("most_test", 2000, "Test texts at most.", lower_bound=1)
flags.DEFINE_integer("tune_epochs", 0, "Epochs of fine-tuning; 0 leaves it out.", lower_bound=0)
flags.DEFINE_string("out", "", "JSON file for the figures.")

STRENGTHS = np.logspace(-3, 2, 6)


def features(texts: Sequence[str]) -> np.ndarray:
    """float32 ``[n, D]`` of the frozen backbone."""
    import tensorflow as tf

    import tltf

    backbone = tltf.backbone(FLAGS.backbone)
    step = tf.function(lambda x: backbone(x, training=False), reduce_retracing=True)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        rows = [texts[i].encode("utf-8", "replace") for i in part]
        encoded = backbone.tokenizer.encode(tf.constant(rows), max_length=128)
        made = step(backbone.tokenizer.padded(encoded)).numpy()
        found |= dict(zip(part, made, strict=True))
    return np.stack([found[i] for i in range(len(texts))])


def drawn(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Positions of ``shots`` examples of each class; all of them for 0."""
    if not shots:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.concatenate([random.permutation(r)[:shots] for r in rows])


def probe(x: Any, y: np.ndarray, test: Any, truth: np.ndarray, *, dense: bool) -> float:
    """Test accuracy of logistic regression."""
    folds = int(min(3, np.bincount(np.unique(y, return_inverse=True)[1]).min()))
    model = GridSearchCV(LogisticRegression(max_iter=500), {"C": STRENGTHS}, cv=max(2, folds))
    fitted = make_pipeline(StandardScaler(), model) if dense else model
    return float((fitted.fit(x, y).predict(test) == truth).mean())


def tuned(texts: Sequence[str], labels: Sequence[str], test: Sequence[tuple[str, str]]) -> float:
    """Test accuracy of ``tltf train`` with its defaults on these labels."""
    import tltf

    with tempfile.TemporaryDirectory() as place:
        rows = [{"text": t, "label": y} for t, y in zip(texts, labels, strict=True)]
        rows += [{"text": t, "label": y, "split": "test"} for t, y in test]
        path = Path(place, "texts.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        spec = tltf.TransferSpec(
            data=tltf.DataSpec(source=str(path)),
            backbone=tltf.BackboneSpec(name=FLAGS.backbone),
            phases=(
                tltf.Phase("head", unfreeze="none"),
                tltf.Phase("tune", FLAGS.tune_epochs),
            ),
            export="none",
        )
        run = tltf.transfer(spec, workdir=Path(place, "run"), progress=False)
        return float(run.report["metrics"]["accuracy"]["value"])


def interval(values: Sequence[float]) -> str:
    """Mean and the 95 % interval of the mean over seeds (Student's t)."""
    from scipy import stats

    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return f"{mean:.3f} ± {half:.3f}"


def main(_: Sequence[str]) -> None:
    from tltf.data.prepare import prepared
    from tltf.spec import DataSpec

    manifest = prepared(DataSpec(source=FLAGS.data, val_fraction=0.0), seed=0)
    train, test = manifest.split("train"), manifest.split("test")[: FLAGS.most_test]
    texts = [r.text or "" for r in (*train, *test)]
    x = features(texts)
    y = np.array([str(r.label) for r in (*train, *test)])
    n = len(train)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for shots in map(int, FLAGS.shots):
        for seed in range(FLAGS.seeds if shots else 1):
            chosen = drawn(y[:n], shots, seed)
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            bags = words.fit_transform([texts[i] for i in chosen])
            row = figures[str(shots or "all")]
            row["tfidf"].append(
                probe(bags, y[chosen], words.transform(texts[n:]), y[n:], dense=False)
            )
            row["frozen"].append(probe(x[chosen], y[chosen], x[n:], y[n:], dense=True))
            if FLAGS.tune_epochs:
                held = list(zip(texts[n:], y[n:], strict=True))
                row["tuned"].append(tuned([texts[i] for i in chosen], list(y[chosen]), held))
            print(shots or "all", seed, {k: round(v[-1], 4) for k, v in row.items()}, flush=True)
    print(f"| labels per class | TF-IDF | frozen {FLAGS.backbone} | tuned | test n={len(test)} |")
    for shots, row in figures.items():
        cells = [
            interval(row[k]) if row.get(k) else "not run" for k in ("tfidf", "frozen", "tuned")
        ]
        print(f"| {shots} | {' | '.join(cells)} | seeds={len(row['tfidf'])} |")
    if FLAGS.out:
        Path(FLAGS.out).write_text(json.dumps(figures, indent=2), "utf-8")


if __name__ == "__main__":
    sys.exit(app.run(main))
