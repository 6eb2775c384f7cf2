"""The rows of ``experiments.benchmarks.transfer`` on reviews of books and dvds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import tltf
from experiments.benchmarks.transfer import directions, members, shared, summary
from tltf.errors import InputMissingError
from tltf.spec import Phase
from tltf.stages.domainfit import Features, fit_method
from tltf.transfer import manifold, pseudolabels, shallow

Encode = Callable[[list[str], list[str]], tuple[np.ndarray, np.ndarray]]

SHALLOW: dict[str, Callable[[Any, Any, Any], np.ndarray]] = {
    "source_only": lambda s, y, t: pseudolabels.self_training(s, y, t, rounds=0),
    "coral": lambda s, y, t: _logistic(shallow.coral_align(s, t), y),
    "subspace": lambda s, y, t: _logistic(shallow.subspace_align(s, t), y),
    "tca": lambda s, y, t: _logistic(shallow.tca(s, t), y),
    "jda": lambda s, y, t: np.eye(int(y.max()) + 1)[shallow.jda(s, y, t).labels],
    "meda": lambda s, y, t: manifold.meda(s, y, t, balance=0.5),
    "propagation": lambda s, y, t: pseudolabels.label_propagation(s, y, t),
    "self_training": lambda s, y, t: pseudolabels.self_training(s, y, t),
}
"""Answers of a logistic head, or of the method itself."""

NETWORK = "network, source"
NETWORKS = ("mmd", "deep_coral", "dann", "cdan_e", "mcc")
"""A hidden layer of 64 on the same features, by itself and with these terms."""


def amazon(
    seeds: int, methods: tuple[str, ...], pairs: tuple[str, ...], encode: Encode
) -> Iterator[dict[str, Any]]:
    """600 source and 600 target reviews of each seed, both directions."""
    files = members(shared("text/amazon_multidomain/public.tar.gz"))
    texts = {
        domain: [
            (row, label)
            for label, sign in enumerate(("negative", "positive"))
            for row in files[f"amazon_multidomain/{domain}/review_{sign}"]
            .decode("utf-8", "replace").splitlines() if row.strip()
        ]
        for domain in ("books", "dvd")
    }  # fmt: skip
    for a, b in directions("books", "dvd", pairs):
        right: dict[str, list[np.ndarray]] = {}
        for seed in range(seeds):
            source, target = (
                [texts[d][i] for i in np.random.default_rng(seed).permutation(len(texts[d]))[:600]]
                for d in (a, b)
            )
            s, t = encode([x for x, _ in source], [x for x, _ in target])
            s, t = shallow.standardized(s), shallow.standardized(t)
            y, truth = (np.array([label for _, label in rows]) for rows in (source, target))
            for name in methods or (*SHALLOW, NETWORK, *NETWORKS):
                by = SHALLOW.get(name) or _network(name, seed)
                right.setdefault(name, []).append(by(s, y, t).argmax(1) == truth)
        for name, rows in right.items():
            base = NETWORK if name in NETWORKS else "source_only"
            first = name in (base, NETWORK) or base not in right
            yield summary(f"{encode.__name__}, {a}>{b}", name, np.stack(rows),
                          None if first else np.stack(right[base]), base_name=base)  # fmt: skip


def _logistic(aligned: shallow.Aligned, y: np.ndarray) -> np.ndarray:
    return pseudolabels.self_training(aligned.source, y, aligned.target, rounds=0)


def _network(name: str, seed: int) -> Callable[[Any, Any, Any], np.ndarray]:
    def answers(s: np.ndarray, y: np.ndarray, t: np.ndarray) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        s, t = s.astype(np.float32), t.astype(np.float32)
        model = keras.Sequential(
            [keras.Input(s.shape[1:]), *tltf.head(2, hidden=(64,), seed=seed).layers]
        )
        cut = len(s) * 85 // 100
        found = Features(train=(s[:cut],), labels=y[:cut], val=(s[cut:],), val_labels=y[cut:],
                         target=(t,))  # fmt: skip
        return fit_method(
            "source_only" if name == NETWORK else name, model, found, n_classes=2, batch_size=64,
            phase=Phase("adapt", 10, 1e-3, unfreeze="none"), seed=seed, weight=None, stop=None,
        ).target_logits  # fmt: skip

    return answers


def tfidf(source: list[str], target: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF of words and pairs, to 200 directions of both domains together."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=3, ngram_range=(1, 2), sublinear_tf=True)
    x = words.fit_transform([*source, *target])
    x = TruncatedSVD(200, random_state=0).fit_transform(x)
    return x[: len(source)], x[len(source) :]


_ENCODED: dict[str, np.ndarray] = {}


def minilm(source: list[str], target: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The MiniLM encoder's sentence vectors, of the first 128 pieces of each text."""
    new = [text for text in dict.fromkeys([*source, *target]) if text not in _ENCODED]
    if new:
        try:
            network = tltf.backbone("minilm")
        except Exception as error:
            raise InputMissingError("no minilm encoder at hand", where=str(error)[:80]) from error
        # Of like length together: a batch is as long as its longest text.
        new.sort(key=len)
        tokens = network.tokenizer
        for i in range(0, len(new), 64):
            ids = tokens.padded(tokens.encode(new[i : i + 64], max_length=128))
            rows = np.asarray(network(ids, training=False))
            _ENCODED.update(zip(new[i : i + 64], rows, strict=True))
    s, t = (np.stack([_ENCODED[text] for text in texts]) for texts in (source, target))
    return s, t
