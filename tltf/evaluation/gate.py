"""``--assert_metric=accuracy>=0.9``: a condition that a report must meet before it is exported."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tltf.errors import ArgumentError, GateError, named_list, nearest
from tltf.evaluation.summary import interval_words

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([A-Za-z0-9_]+)\s*(>=|<=|>|<)\s*([-+0-9.e]+)\s*")


@dataclass(frozen=True)
class Gate:
    """``metric`` compared by ``sign`` with ``bound``."""

    metric: str
    sign: str
    bound: float

    def check(self, report: Mapping[str, Any], *, kept: object = "") -> None:
        """Raises GateError when the report's value does not meet the bound.

        Raises:
          ArgumentError: the report has no such metric.
        """
        metrics = report["metrics"]
        if self.metric not in metrics:
            why = report.get("undefined", {}).get(self.metric)
            raise ArgumentError(
                f"{self.metric} has no value here: {why}"
                if why
                else f"the report has no metric {self.metric!r}{nearest(self.metric, metrics)}",
                where="--assert_metric",
                next_action=f"use one of {named_list(metrics, most=12)}",
            )
        found = metrics[self.metric]
        if not _OPERATORS[self.sign](found["value"], self.bound):
            raise GateError(
                f"{self.metric} is {found['value']:.4f} ({interval_words(found, digits=4)}), asked"
                f" for {self.sign} {self.bound:g}",
                where="--assert_metric",
                kept=kept,
                next_action="read the report; nothing was exported",
            )


def parse_gate(text: str) -> Gate:
    """Reads ``accuracy>=0.9``; names are those of report.json, ``mAP`` among them.

    Raises:
      ArgumentError: another form.

    >>> parse_gate("macro_f1 >= 0.8").bound
    0.8
    """
    match = _FORM.fullmatch(text)
    try:
        metric, sign, bound = match.groups()  # type: ignore[union-attr]
        return Gate(metric, sign, float(bound))
    except (AttributeError, ValueError) as error:
        raise ArgumentError(
            f"{text!r}, expected METRIC>=NUMBER (or <=, >, <)",
            where="--assert_metric",
            next_action="for example --assert_metric='accuracy>=0.9'",
        ) from error
