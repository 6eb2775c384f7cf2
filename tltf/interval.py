"""How often a training state is committed: ``--save_every``, as text and as a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tltf.errors import ArgumentError

SECONDS = 30.0
COST_SHARE = 0.05
_FORM = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|steps?)?")


@dataclass(frozen=True, kw_only=True)
class SaveInterval:
    """After how much work the next state is due; exactly one of the two is given.

    Args:
      seconds: of training since the last save; 0 saves after every step.
      steps: training steps since the run began; a state at each multiple.
      adapt: wait longer than ``seconds`` where saving would take more than 5 % of the time.
    """

    seconds: float | None = None
    steps: int | None = None
    adapt: bool = False

    def due(self, *, steps_done: int, since_seconds: float, cost_seconds: float) -> bool:
        """Whether to commit now.

        Args:
          steps_done: training steps of the whole run, this one included.
          since_seconds: time since the last commit.
          cost_seconds: what the last commit took.
        """
        if self.steps is not None:
            return steps_done % self.steps == 0
        least = cost_seconds / COST_SHARE if self.adapt else 0.0
        return since_seconds >= max(self.seconds or 0.0, least)


def save_interval(text: str | float) -> SaveInterval:
    """The interval that ``--save_every=text`` means.

    Args:
      text: ``auto`` (30 s, and longer where saving would cost more than 5 % of the time),
        ``30s`` or a bare number (seconds), or ``50steps``.

    Raises:
      ArgumentError: another text, or zero steps.

    >>> save_interval("50steps")
    SaveInterval(seconds=None, steps=50, adapt=False)
    >>> save_interval("30s") == save_interval("30") == save_interval(30)
    True
    """
    if text == "auto":
        return SaveInterval(seconds=SECONDS, adapt=True)
    match = _FORM.fullmatch(str(text).strip())
    if match is not None:
        number, unit = match["number"], match["unit"] or "s"
        if unit == "s":
            return SaveInterval(seconds=float(number))
        if number.isdecimal() and int(number) > 0:
            return SaveInterval(steps=int(number))
    raise ArgumentError(
        f"save_every={str(text)!r}, expected auto, seconds such as 30s, or steps such as 50steps",
        where="--save_every",
        next_action="for example --save_every=30s or --save_every=50steps",
    )
