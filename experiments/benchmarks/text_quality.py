"""Few-label curves of texts: TF-IDF, frozen features and ``tltf train``, on the same labels.

  python -m experiments.benchmarks.text_quality --data=sst2 --workdir=FOLDER

For 8, 32 and 128 labels per class, and all of them: the accuracy on the test split of logistic
regression on TF-IDF of words and pairs of words, the same on the frozen backbone's features (each
strength chosen by cross-validation on the labels that there are), and of ``tltf train`` with its
defaults on those labels, out of which it holds its validation split too.

A seed draws the labels, the first weights and the order of the batches; where the data names no
test split, that too. What is done is kept in ``FOLDER``: the same command again goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.benchmarks import text_sets
from experiments.benchmarks.choosing import kept
from experiments.benchmarks.protocol import bootstrapped
from tltf.cli.app import Program, execute
from tltf.cli.quiet import import_tensorflow
from tltf.cli.run_flags import required
from tltf.errors import ArgumentError, nearest

SIDES = ("tfidf", "frozen", "tuned")
FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "sst2, mr, trec, or texts as for tltf train.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Where figures are kept.", flag_values=FLAGS)
flags.DEFINE_string("backbone", "minilm", "A text backbone.", flag_values=FLAGS)
flags.DEFINE_list("shots", ["8", "32", "128", "0"], "Labels per class; 0 for all.",
                  flag_values=FLAGS)  # fmt: skip
flags.DEFINE_list("sides", list(SIDES), "Which classifiers.", flag_values=FLAGS)
flags.DEFINE_integer("seeds", 3, "Draws of the labels.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("first_seed", 0, "The first of them.", lower_bound=0, flag_values=FLAGS)

STRENGTHS = np.logspace(-3, 2, 6)
BATCH, MOST_TOKENS = 64, 256


@dataclass(frozen=True)
class Draw:
    """Labelled texts and the test texts of one seed."""

    texts: list[str]
    labels: np.ndarray
    test: list[str]
    truth: np.ndarray
    seed: int


def draws(source: Path, seeds: Sequence[int]) -> Iterator[Draw]:
    """All labels of each seed: what the data calls train and validation, beside its test split."""
    from tltf.data.prepare import prepared
    from tltf.spec import DataSpec

    for seed in seeds:
        manifest = prepared(DataSpec(source=str(source), val_fraction=0.0), seed=seed)
        known, test = [*manifest.split("train"), *manifest.split("val")], manifest.split("test")
        yield Draw(
            [r.text or "" for r in known], np.array([str(r.label) for r in known]),
            [r.text or "" for r in test], np.array([str(r.label) for r in test]), seed,
        )  # fmt: skip


def few(draw: Draw, shots: int) -> Draw:
    """``shots`` labels of each class; all of them for 0."""
    if not shots:
        return draw
    random = np.random.default_rng(draw.seed)
    rows = [np.flatnonzero(draw.labels == c) for c in np.unique(draw.labels)]
    chosen = np.concatenate([random.permutation(r)[:shots] for r in rows])
    texts = [draw.texts[i] for i in chosen]
    return Draw(texts, draw.labels[chosen], draw.test, draw.truth, draw.seed)


class Frozen:
    """Features of the backbone as it was pretrained, each text once."""

    def __init__(self, backbone: str) -> None:
        self.backbone = backbone
        self._known: dict[str, np.ndarray] = {}

    @cached_property
    def _parts(self) -> tuple[Any, Callable[[Any], Any]]:
        import tltf
        from tltf.training.features import compiled

        backbone = tltf.backbone(self.backbone)
        return backbone.tokenizer, compiled(backbone)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[n, D]``."""
        tokenizer, compute = self._parts
        new = sorted({t for t in texts if t not in self._known}, key=len)
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            encoded = tokenizer.encode(part, max_length=MOST_TOKENS)
            rows = np.asarray(compute(tokenizer.padded(encoded))[0])
            self._known |= dict(zip(part, rows, strict=True))
        return np.stack([self._known[t] for t in texts])


def probe(x: Any, y: np.ndarray, test: Any, *, dense: bool) -> np.ndarray:
    """What logistic regression answers to the test examples."""
    folds = int(min(3, np.unique(y, return_counts=True)[1].min()))
    model = GridSearchCV(LogisticRegression(max_iter=500), {"C": STRENGTHS}, cv=max(2, folds))
    fitted = make_pipeline(StandardScaler(), model) if dense else model
    return fitted.fit(x, y).predict(test)


def tuned(draw: Draw, backbone: str) -> np.ndarray:
    """What ``tltf train`` with its defaults answers to the test examples."""
    import tltf

    with tempfile.TemporaryDirectory() as place:
        rows = [{"text": t, "label": y} for t, y in zip(draw.texts, draw.labels, strict=True)]
        rows += [{"text": t, "label": y, "split": "test"}
                 for t, y in zip(draw.test, draw.truth, strict=True)]  # fmt: skip
        table = Path(place, "texts.jsonl")
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        spec = tltf.TransferSpec(
            effort="plan",
            data=tltf.DataSpec(source=str(table)),
            backbone=tltf.BackboneSpec(name=backbone),
            seed=draw.seed,
            export="none",
        )
        tltf.transfer(spec, workdir=Path(place, "run"), progress=False)
        return _answers(Path(place, "run"), draw.test)


def _answers(run: Path, texts: Sequence[str]) -> np.ndarray:
    """The predicted class of each text; empty for one that the run left out."""
    from tltf.data.manifest import Manifest

    said = {row["id"]: row["predicted"]
            for row in map(json.loads, (run / "report/predictions.jsonl").open())}  # fmt: skip
    records = Manifest.from_json_lines((run / "manifest.jsonl").open()).split("test")
    by_text = {record.text: said[record.id] for record in records}
    return np.array([by_text.get(text, "") for text in texts])


def hits(side: str, draw: Draw, frozen: Frozen) -> dict[str, int]:
    """By test text, whether the answer is right."""
    if side == "tfidf":
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        said = probe(words.fit_transform(draw.texts), draw.labels, words.transform(draw.test),
                     dense=False)  # fmt: skip
    elif side == "frozen":
        said = probe(frozen(draw.texts), draw.labels, frozen(draw.test), dense=True)
    else:
        said = tuned(draw, frozen.backbone)
    names = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in draw.test]
    return dict(zip(names, map(int, said == draw.truth), strict=True))


def interval(values: Sequence[float]) -> str:
    """Mean and the 95 % interval of the mean over seeds (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return f"{mean:.3f} ± {half:.3f}"


def difference(a: Sequence[dict[str, int]], b: Sequence[dict[str, int]]) -> str:
    """Points that ``a`` is above ``b`` on the same test texts, with the 95 % interval."""
    paired = [{k: x[k] - y[k] for k in x} for x, y in zip(a, b, strict=True)]
    found = bootstrapped(paired)
    return f"{100 * found.difference:+.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def row(shots: int, found: dict[str, list[dict[str, int]]]) -> str:
    """One line of the table."""
    means = {side: [float(np.mean(list(hit.values()))) for hit in hits]
             for side, hits in found.items()}  # fmt: skip
    cells = [interval(each) for each in means.values()]
    if {"frozen", "tuned"} <= set(found):
        cells.append(difference(found["tuned"], found["frozen"]))
    return f"| {shots or 'all'} | {' | '.join(cells)} |"


def run(values: flags.FlagValues) -> None:
    required(values, "data", "workdir")
    import_tensorflow()
    source = text_sets.table(values.data, Path(values.workdir))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8] if source.is_file() else "folder"
    name = f"{source.stem}-{digest}-{values.backbone}"
    work = Path(values.workdir, name.replace("/", "_"))
    shown = [_shots(text) for text in values.shots]
    for side in values.sides:
        if side not in SIDES:
            raise ArgumentError(f"sides={side!r}, expected some of {', '.join(SIDES)}"
                                f"{nearest(side, SIDES)}", where="--sides")  # fmt: skip
    frozen, table = Frozen(values.backbone), []
    drawn = list(draws(source, range(values.first_seed, values.first_seed + values.seeds)))
    for shots in shown:
        found: dict[str, list[dict[str, int]]] = {side: [] for side in values.sides}
        for draw in drawn:
            some = few(draw, shots)
            for side in values.sides:
                path = work / f"{side}-{shots or 'all'}-{draw.seed}.json"
                hit = kept(path, lambda side=side, some=some: hits(side, some, frozen))
                found[side].append(hit)
                mean = float(np.mean(list(hit.values())))
                print(f"{shots or 'all'} labels, seed {draw.seed}, {side}: {mean:.4f}", flush=True)
        table.append(row(shots, found))
    sizes = f"{len(drawn[0].labels)} labels, {len(drawn[0].test)} tests, {len(drawn)} seeds"
    print(f"| labels per class of {sizes} | {' | '.join(values.sides)} | tuned over frozen |")
    print(*table, sep="\n")


def _shots(text: str) -> int:
    if not text.isdecimal() or text == "1":
        raise ArgumentError(f"shots={text!r}, expected whole numbers of at least 2, or 0 for all",
                            where="--shots")  # fmt: skip
    return int(text)


PROGRAM = Program(
    name="experiments.benchmarks.text_quality",
    about="few-label curves of texts: TF-IDF, frozen features and tltf train.",
    flag_values=FLAGS,
    run=run,
)

if __name__ == "__main__":
    sys.exit(execute(PROGRAM, sys.argv[1:]))
