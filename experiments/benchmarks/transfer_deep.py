"""The rows of ``experiments.benchmarks.transfer`` that train networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import tltf
from experiments.benchmarks.transfer import directions, members, shared, summary
from tltf.backbones.hub.archives import extract
from tltf.data import prepare
from tltf.models.classifier import classifier
from tltf.spec import DataSpec, Phase
from tltf.stages import domainfit
from tltf.stages.adapting import CANDIDATES
from tltf.stages.domainfit import Features, fit_method
from tltf.transfer import fewshot as few
from tltf.transfer import metalearning

DIGITS = ("source_only", "mmd", "deep_coral", "dann", "cdan_e", "mcc")
PACS = (
    "source_only", "mmd", "dan", "jan", "deep_coral", "dann", "cdan_e", "mcc", "entropy", "afn",
    "dsbn", "coral", "jda", "meda", "propagation", "self_training", "kmm", "domain_classifier",
)  # fmt: skip


def digits(
    seeds: int, methods: tuple[str, ...], pairs: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """2,000 MNIST and 1,800 USPS images of 16 px; a small CNN from scratch, no augmentation."""
    with np.load(shared("images/digits_mnist_usps/public.npz")) as found:
        mnist = tf.image.resize(found["mnist_x"][..., None] / 255.0, (16, 16), antialias=True)
        usps = found["usps_x"].reshape(-1, 16, 16, 1)
        domains = {
            "mnist": (np.asarray(mnist, np.float32), found["mnist_y"].astype(int)),
            "usps": (usps.astype(np.float32), found["usps_y"].astype(int)),
        }
    sizes = {"mnist": 2000, "usps": 1800}
    for a, b in directions("mnist", "usps", pairs):
        tasks = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            (x, y), (x_t, y_t) = domains[a], domains[b]
            s, t = rng.permutation(len(x)), rng.permutation(len(x_t))[: sizes[b]]
            val, s = s[sizes[a] : sizes[a] + 300], s[: sizes[a]]
            data = Pixels(
                train=(x[s],), labels=y[s], val=(x[val],), val_labels=y[val], target=(x_t[t],)
            )
            tasks.append((data, y_t[t]))

        def fit(method: str, data: Features, seed: int) -> domainfit.Fitted:
            return fit_method(
                method, small_cnn(seed), data, phase=Phase("adapt", 10, 1e-3), n_classes=10,
                batch_size=64, seed=seed, weight=None, stop=None,
            )  # fmt: skip

        yield from tried(f"digits, {a}>{b}", tasks, methods or DIGITS, fit)


class Pixels(Features):
    """Images whose every pixel is a number of its own to the criteria."""

    def pooled(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        return arrays[0].reshape(len(arrays[0]), -1).astype(np.float64)


def small_cnn(seed: int) -> keras.Model:
    """Two convolutions and a hidden layer of 128, from 16 px to ten logits."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(16, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def tried(
    row: str,
    tasks: list[tuple[Features, np.ndarray]],
    methods: tuple[str, ...],
    fit: Callable[[str, Features, int], domainfit.Fitted],
) -> Iterator[dict[str, Any]]:
    """Every method against the source alone, and what each criterion would have chosen.

    Args:
      row: the name of the measurement.
      tasks: data and the target's labels of each seed.
      methods: to try beside the source alone.
      fit: ``(method, data, seed) -> Fitted``.
    """
    right: dict[str, np.ndarray] = {}
    judged: dict[str, list[dict[str, float]]] = {}
    weights = [domainfit.importance(data) for data, _ in tasks]
    for method in dict.fromkeys(("source_only", *methods)):
        rows, judged[method] = [], []
        for seed, (data, truth) in enumerate(tasks):
            fitted = fit(method, data, seed)
            rows.append(fitted.target_logits.argmax(axis=1) == truth)
            found = domainfit.judged(fitted, data, weights=weights[seed])
            found["source"] = (fitted.val_logits.argmax(axis=1) == data.val_labels).mean()
            judged[method].append(found)
        right[method] = np.stack(rows)
        means = {k: np.mean([found[k] for found in judged[method]]) for k in KEYS}
        yield summary(row, method, right[method],
                      None if method == "source_only" else right["source_only"],
                      note="source {source:.3f} reverse {reverse:.3f} density {density:.2f}"
                      .format(**means))  # fmt: skip
    candidates = [m for m in ("source_only", *CANDIDATES) if m in right]
    if len(candidates) == len(CANDIDATES) + 1:
        for key, better in CRITERIA.items():
            picked = [
                better(candidates, key=lambda m, i=i: judged[m][i][key]) for i in range(len(tasks))
            ]
            rows = [right[m][i] for i, m in enumerate(picked)]
            yield summary(row, f"auto by {key}", np.stack(rows), right["source_only"],
                          note="would choose " + ", ".join(picked))  # fmt: skip


KEYS = ("source", "reverse", "density")
CRITERIA: dict[str, Any] = {"density": max, "reverse": max, "entropy": min, "weighted_risk": min}


def pacs(
    seeds: int, methods: tuple[str, ...], pairs: tuple[str, ...], work: Path
) -> Iterator[dict[str, Any]]:
    """315 photos and 315 paintings; MobileNetV2 frozen, a bottleneck of 256, as ``tltf adapt``."""
    import tarfile

    from tltf.trained import Trained

    if not (work / "pacs").is_dir():
        with tarfile.open(shared("images/pacs/public.tar")) as tar:
            extract(tar, work)
    network = tltf.backbone("MobileNetV2")
    features, labels = {}, {}
    for domain in ("photo", "art_painting"):
        manifest = prepare.scanned(DataSpec(source=str(work / "pacs" / domain)))
        model = Trained(model=classifier(network, tltf.head(7)), task="single_label",
                        classes=manifest.classes, image_size=224, max_length=None)  # fmt: skip
        data = model.batches(manifest.records)
        kept = work / f"pacs-{domain}.npy"
        if not kept.exists():
            np.save(kept, model.features(data))
        features[domain], labels[domain] = np.load(kept), data.targets().argmax(axis=1)
    for a, b in directions("photo", "art_painting", pairs):
        tasks = [(_split(features[a], labels[a], features[b], i), labels[b]) for i in range(seeds)]
        yield from tried(f"pacs, {a}>{b}", tasks, methods or PACS, _head_once)


def _split(x: np.ndarray, y: np.ndarray, target: np.ndarray, seed: int) -> Features:
    order = np.random.default_rng(seed).permutation(len(x))
    val, train = order[: len(x) * 15 // 100], order[len(x) * 15 // 100 :]
    return Features(
        train=(x[train],), labels=y[train], val=(x[val],), val_labels=y[val], target=(target,)
    )


def _head_once(method: str, found: Features, seed: int) -> domainfit.Fitted:
    pool, *rest = tltf.head(7, hidden=(256,), seed=seed).layers
    if method == "dsbn":
        rest = [tltf.transfer.DomainBatchNormalization(dtype="float32"), *rest]
    tail = keras.Sequential([keras.Input(found.train[0].shape[1:]), pool, *rest])
    return fit_method(
        method, tail, found, phase=Phase("adapt", 30, 1e-3, unfreeze="none"), n_classes=7,
        batch_size=64, seed=seed, weight=None, stop=None,
    )  # fmt: skip


def fewshot(seeds: int) -> Iterator[dict[str, Any]]:
    """An encoder meets six classes in episodes and is tested on the other four, in 600 episodes."""
    digits = load_digits()
    sets = {
        "digits": ((digits.images[..., None] / 16.0).astype("float32"), digits.target),
        "sign_digits": _signs(),
    }
    for name, (x, y) in sets.items():
        found: dict[tuple[int, str], list[few.EpisodeAccuracy]] = {}
        for seed in range(seeds):
            for key, accuracy in _episodes(x, y, seed).items():
                found.setdefault(key, []).append(accuracy)
        for (shots, method), rows in found.items():
            v = np.array([[row.value] for row in rows])
            base = np.array([[row.value] for row in found[shots, CLASSIFIER]])
            half = np.mean([row.high - row.low for row in rows]) * 50
            yield summary(f"fewshot, {name}, {shots} shot", method, v,
                          None if method == CLASSIFIER else base, base_name="class mean",
                          note=f"600 episodes a seed, within one +-{half:.1f}")  # fmt: skip


CLASSIFIER = "nearest class mean, classifier features"


def _episodes(x: np.ndarray, y: np.ndarray, seed: int) -> dict[tuple[int, str], Any]:
    """Mean accuracy over the episodes on four classes that no encoder has met, 4 ways."""
    known = np.random.default_rng(seed).choice(10, 6, replace=False)
    old, new = np.isin(y, known), ~np.isin(y, known)
    classifier = np.asarray(_classifier(x[old], y[old], seed)(x[new]))
    found = {}
    for shots in (1, 5):
        test = few.EpisodeSampler(y[new], ways=4, shots=shots, queries=10, seed=seed)
        features = {
            CLASSIFIER: classifier,
            "nearest class mean, pixels": x[new].reshape(new.sum(), -1),
            "prototypical network": np.asarray(_prototypical(x[old], y[old], shots, seed)(x[new])),
        }
        for name, z in features.items():
            found[shots, name] = few.evaluate_episodes(z, test)
    return found


def _signs() -> tuple[np.ndarray, np.ndarray]:
    """600 photos of hands that show a digit, grey, 32 px."""
    images, labels = [], []
    for name, content in sorted(members(shared("images/sign_digits/public.tar")).items()):
        if name.lower().endswith((".jpg", ".jpeg", ".png")):
            pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
            grey = tf.image.rgb_to_grayscale(tf.image.resize(pixels, (32, 32), antialias=True))
            images.append(np.asarray(grey, np.float32) / 255.0)
            labels.append(int(Path(name).parent.name))
    return np.stack(images), np.array(labels)


def _encoder(side: int, seed: int) -> keras.Sequential:
    """Convolutions and pooling down to 4 px, then 64 features."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    blocks: list[keras.layers.Layer] = []
    while side > 4:
        filters = 16 * 2 ** (len(blocks) // 2)
        blocks += [layers.Conv2D(filters, 3, padding="same", activation="relu"),
                   layers.MaxPooling2D()]  # fmt: skip
        side //= 2
    last = layers.Conv2D(32, 3, padding="same", activation="relu")
    return keras.Sequential([*blocks, last, layers.Flatten(), layers.Dense(64)])


def _classifier(x: np.ndarray, y: np.ndarray, seed: int) -> keras.Model:
    encoder = _encoder(x.shape[1], seed)
    names = np.unique(y)
    model = keras.Sequential([encoder, keras.layers.ReLU(), keras.layers.Dense(len(names))])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    epochs = max(8, 250 * 32 // len(x))  # as many steps as the prototypical network has episodes
    model.fit(x, np.searchsorted(names, y), epochs=epochs, batch_size=32, verbose=0)
    return encoder


def _prototypical(x: np.ndarray, y: np.ndarray, shots: int, seed: int) -> keras.Model:
    encoder = _encoder(x.shape[1], seed)
    encoder.build((None, *x.shape[1:]))
    sampler = few.EpisodeSampler(y, ways=5, shots=shots, queries=10, seed=seed)
    metalearning.train_prototypical(encoder, x, sampler, episodes=250)
    return encoder


def regularizers(seeds: int, work: Path) -> Iterator[dict[str, Any]]:
    """Fine-tuning of the upper blocks of MobileNet(alpha=0.25) at 224 px, features kept below."""
    for name in ("hymenoptera", "sign_digits"):
        for share in (0.15, 1.0):
            right: dict[str, list[np.ndarray]] = {}
            for seed in range(seeds):
                for method in ("none", "l2sp:0.01", "bss:0.001"):
                    rows = _tuned(name, share, method, seed, work)
                    right.setdefault(method, []).append(rows)
            base = np.stack(right["none"])
            for method, rows in right.items():
                yield summary(f"{name}, {share:.0%} of labels", method, np.stack(rows),
                              None if method == "none" else base, base_name="plain")  # fmt: skip


def _tuned(name: str, share: float, method: str, seed: int, work: Path) -> np.ndarray:
    """Whether each test image of one fixed split is right."""
    import tarfile

    folder = work / "data" / name
    if not folder.is_dir():
        (work / "data").mkdir(parents=True, exist_ok=True)
        with tarfile.open(shared("images", name, "public.tar")) as tar:
            extract(tar, work / "data")
    manifest = prepare.prepared(
        DataSpec(source=str(_classes(folder)), val_fraction=0.15, test_fraction=0.3), seed=0
    )
    rng = np.random.default_rng(seed)
    train = np.array(manifest.split("train"), dtype=object)
    labels = np.array([r.label for r in train])
    kept = [
        i
        for c in manifest.classes
        for i in rng.permutation(np.flatnonzero(labels == c))[
            : max(2, round(share * (labels == c).sum()))
        ]
    ]
    from tltf.data.batches import Batches
    from tltf.stages.planning import regularized
    from tltf.training.caching import Cache

    def batches(records: Any) -> Batches:
        return Batches(records, classes=manifest.classes, task="single_label", image_size=224,
                       batch_size=16, seed=seed, views=1)  # fmt: skip

    network = tltf.backbone("MobileNet:alpha=0.25", input_size=224)
    head = tltf.head(len(manifest.classes), dropout=0.2, seed=seed)
    model = regularized(classifier(network, head), method)
    phases = (
        Phase("head", 10, 1e-3, unfreeze="none"),
        Phase("tune", 10, 3e-4, unfreeze="last:4"),
    )
    tltf.fit_phases(
        model, phases, batches(tuple(train[sorted(kept)])), validation=batches(
            manifest.split("val")), cache=Cache(folder=work / "features", say=lambda _: None),
        progress=False,
    )  # fmt: skip
    test = batches(manifest.split("test"))
    logits = np.concatenate([np.asarray(model(x, training=False)) for x, _, _ in
                             test.eval_dataset()])  # fmt: skip
    return logits.argmax(axis=1) == test.targets().argmax(axis=1)


def _classes(folder: Path) -> Path:
    """Past a single ``train`` folder, whose splits are drawn anew."""
    return folder / "train" if (folder / "train").is_dir() else folder
