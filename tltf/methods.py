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
    "domain_classifier", "kmm", "kliep", "ulsif",
)  # fmt: skip
"""What ``tltf adapt --method`` takes; :mod:`tltf.stages.adapting` carries them out."""

REGULARIZERS = ("none", "l2sp", "bss")


def regularizer(text: str) -> tuple[str, float]:
    """Kind and factor of ``none``, ``l2sp:ALPHA`` or ``bss:ETA``.

    Raises:
      ArgumentError: another form.

    >>> regularizer("l2sp:0.01"), regularizer("none")
    (('l2sp', 0.01), ('none', 0.0))
    """
    kind, _, rest = text.partition(":")
    try:
        factor = float(rest) if kind != "none" else 0.0
    except ValueError:
        factor = math.nan
    if kind not in REGULARIZERS or not 0 <= factor < math.inf or (kind == "none" and rest):
        raise ArgumentError(
            f"regularizer={text!r}, expected none, l2sp:FACTOR or bss:FACTOR"
            f"{nearest(kind, REGULARIZERS) if kind not in REGULARIZERS else ''}",
            where="--regularizer",
            next_action="for example --regularizer=l2sp:0.01",
        )
    return kind, factor


@dataclass(frozen=True, kw_only=True)
class AdaptSpec:
    """Domain adaptation: ``target`` data that the source's classes are carried over to.

    Without a ``target`` nothing is adapted. A target folder with class sub-folders has labels,
    which are used for the final number only; a flat folder of images has none. ``weight`` is the
    method's factor in the loss, None for its own default.
    """

    target: str = ""
    method: str = "auto"
    weight: float | None = None

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
