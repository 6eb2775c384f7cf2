"""``--assert_metric=accuracy>=0.9``: a condition that a report must meet before it is exported."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tltf.errors import ArgumentError, GateError, named_list, nearest

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=|>|<)\s*([-+0-9.e]+)\s*")


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
            raise ArgumentError(
                f"the report has no metric {self.metric!r}{nearest(self.metric, metrics)}",
                where="--assert_metric",
                next_action=f"use one of {named_list(metrics, most=12)}",
            )
        found = metrics[self.metric]
        groups = f" in {found['groups']} groups" if "groups" in found else ""
        if not _OPERATORS[self.sign](found["value"], self.bound):
            raise GateError(
                f"{self.metric} is {found['value']:.4f} ({_interval(found)}n={found['n']}{groups}),"
                f" asked for {self.sign} {self.bound:g}",
                where="--assert_metric",
                kept=kept,
                next_action="read the report; nothing was exported",
            )


def _interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return ""
    return f"95 % interval {found['low']:.4f} to {found['high']:.4f}, "


def parse_gate(text: str) -> Gate:
    """Reads ``accuracy>=0.9``.

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
