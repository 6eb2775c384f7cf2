"""Names of the transfer methods that a run can use, and the part of the specification with them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tltf.errors import ArgumentError, nearest

ADAPT_METHODS = (
    "auto", "source_only",
    "mmd", "dan", "jan", "deep_coral", "dann", "cdan", "cdan_e", "mcc", "entropy", "afn",
    "adabn", "dsbn",
    "coral", "subspace", "tca", "jda", "bda", "meda", "propagation", "self_training",
    "domain_classifier", "kmm", "kliep", "ulsif", "tradaboost",
)  # fmt: skip
"""What ``tltf adapt --method`` takes; :mod:`tltf.stages.adapting` carries them out."""

NOT_OF_ADAPTATION = {
    "strategy": "which trains on stored features, on one device",
    "data_service": "which reads every example once and keeps its features",
    "micro_batch": "which compares the examples of a batch",
    "tensorboard": "whose curves are in its report",
    "save_every": "which keeps features as they are computed: the same command goes on from them",
}
"""Settings of a training that would change nothing in an adaptation, and why."""

REGULARIZERS = ("none", "l2sp", "bss", "delta")

DISTILLATIONS = {
    "logits": 0.0, "features": 1.0, "distances": 25.0, "angles": 50.0, "similarity": 3000.0,
}  # fmt: skip
"""What a student learns of its teacher, and the weight in the loss: the authors' where there are
some. The answers have no weight: they are mixed with the labels half and half."""


def distillation(text: str) -> tuple[tuple[str, float], ...]:
    """Kinds and weights of ``--distill``: ``KIND`` or ``KIND:WEIGHT``, several with commas.

    Raises:
      ArgumentError: an unknown kind, one twice, or a weight that is none.

    >>> distillation("logits,distances:10,angles")
    (('logits', 0.0), ('distances', 10.0), ('angles', 50.0))
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        kind, colon, rest = part.strip().partition(":")
        if kind not in DISTILLATIONS or kind in found or (kind == "logits" and colon):
            raise ArgumentError(
                f"distill={text!r}, expected some of {', '.join(DISTILLATIONS)}, each once, all but"
                f" logits with a weight if you like"
                f"{nearest(kind, DISTILLATIONS) if kind not in DISTILLATIONS else ''}",
                where="--distill",
                next_action="for example --distill=logits,distances:25",
            )
        found[kind] = _factor(rest) if colon else DISTILLATIONS[kind]
        if not 0 <= found[kind] < math.inf:
            raise ArgumentError(
                f"distill={text!r}, expected a weight in [0, inf) behind the colon",
                where="--distill",
                next_action="for example --distill=distances:25",
            )
    return tuple(found.items())


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def regularizer(text: str) -> tuple[str, float]:
    """Kind and factor of ``none``, ``l2sp:ALPHA``, ``bss:ETA`` or ``delta:WEIGHT``.

    Raises:
      ArgumentError: another form.

    >>> regularizer("l2sp:0.01"), regularizer("none")
    (('l2sp', 0.01), ('none', 0.0))
    """
    kind, _, rest = text.partition(":")
    factor = _factor(rest) if kind != "none" else 0.0
    if kind not in REGULARIZERS or not 0 <= factor < math.inf or (kind == "none" and rest):
        raise ArgumentError(
            f"regularizer={text!r}, expected none, l2sp:FACTOR, bss:FACTOR or delta:FACTOR"
            f"{nearest(kind, REGULARIZERS) if kind not in REGULARIZERS else ''}",
            where="--regularizer",
            next_action="for example --regularizer=l2sp:0.01",
        )
    return kind, factor


AVERAGES = ("none", "ema", "swa")
SWA_SHARE = 0.25
"""Of a phase's steps, at its end: the budget beyond which the paper averages."""


def average(text: str) -> tuple[str, float]:
    """Kind and number of ``none``, ``ema:MOMENTUM``, ``swa`` or ``swa:SHARE`` of the steps.

    Raises:
      ArgumentError: another form.

    >>> average("ema:0.99"), average("swa"), average("none")
    (('ema', 0.99), ('swa', 0.25), ('none', 0.0))
    """
    kind, colon, rest = text.partition(":")
    number = _factor(rest) if colon else {"swa": SWA_SHARE, "none": 0.0}.get(kind, math.nan)
    known = kind in AVERAGES and not (kind == "none" and colon)
    if not known or not (0 <= number <= 1 if kind == "swa" else 0 <= number < 1):
        raise ArgumentError(
            f"average={text!r}, expected none, ema:MOMENTUM in [0, 1), or swa:SHARE in [0, 1]"
            f"{nearest(kind, AVERAGES) if kind not in AVERAGES else ''}",
            where="--average",
            next_action="for example --average=ema:0.99 or --average=swa",
        )
    return kind, number


@dataclass(frozen=True, kw_only=True)
class AdaptSpec:
    """Domain adaptation: ``target`` data that the source's classes are carried over to.

    Without a ``target`` nothing is adapted. A target folder with class sub-folders has labels,
    which are used for the final number only; a flat folder of images has none. ``weight`` is the
    method's factor in the loss, None for its own default. ``shots`` labelled target examples of
    each class are learned from, by every method and by the source-only model, and are in no number.
    ``sources`` are further ones beside that of the data.
    """

    target: str = ""
    method: str = "auto"
    weight: float | None = None
    shots: int = 0
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in ADAPT_METHODS:
            raise ArgumentError(
                f"method={self.method!r}, expected one of {', '.join(ADAPT_METHODS)}"
                f"{nearest(self.method, ADAPT_METHODS)}",
                where="--method",
            )
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ArgumentError(
                f"term_weight={self.weight!r}, expected a number in [0, inf)", where="--term_weight"
            )
        least = 1 if self.method == "tradaboost" else 0
        if self.shots < least:
            raise ArgumentError(
                f"shots={self.shots} with method={self.method!r}, expected at least {least}"
                " labelled target examples of each class",
                where="--shots",
                next_action="for example --shots=5",
            )


FEWEST_EPISODES = 600
EPISODE_HEADS = ("nearest_mean", "cosine", "logistic")
META_METHODS = ("prototypical", "reptile", "maml")
EPISODE_METHODS = (*EPISODE_HEADS, *META_METHODS)
"""What ``tltf episodes --method`` takes; the second kind learns from episodes of known classes."""


@dataclass(frozen=True, kw_only=True)
class EpisodesSpec:
    """Few-shot episodes: how large they are, how many, what is tried, and on which classes.

    Args:
      ways: classes of an episode, >= 2.
      shots: labelled examples of each class, one or several numbers to try, >= 1.
      queries: further examples of each class, which are asked for.
      episodes: that are measured on, >= 600.
      methods: of :data:`EPISODE_METHODS`.
      novel: classes that are measured on; the others are known. None lets the seed decide.
      meta_episodes: of known classes that a method learns from, >= 1.
    """

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = FEWEST_EPISODES
    methods: tuple[str, ...] = EPISODE_METHODS
    novel: tuple[str, ...] = ()
    meta_episodes: int = 500

    def __post_init__(self) -> None:
        least = {"ways": (self.ways, 2), "queries": (self.queries, 1),
                 "episodes": (self.episodes, FEWEST_EPISODES),
                 "meta_episodes": (self.meta_episodes, 1),
                 "shots": (min(self.shots, default=0), 1)}  # fmt: skip
        for name, (value, low) in least.items():
            if value < low:
                raise ArgumentError(f"{name}={value}, expected at least {low}", where=f"--{name}")
        unknown = [name for name in self.methods if name not in EPISODE_METHODS]
        if unknown or not self.methods:
            name = unknown[0] if unknown else ""
            raise ArgumentError(
                f"method={name!r}, expected some of {', '.join(EPISODE_METHODS)}"
                f"{nearest(name, EPISODE_METHODS)}",
                where="--method",
            )

    @property
    def learns(self) -> bool:
        """Whether some method wants known classes to learn from."""
        return bool(set(self.methods) & set(META_METHODS))

    @property
    def examples(self) -> int:
        """Of a class, for the largest episode."""
        return max(self.shots) + self.queries
