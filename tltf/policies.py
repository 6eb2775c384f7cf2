"""Augmentation as text: named policies, or ranges such as ``flip,shear=0.2,zoom=0.2``.

The values only, so that a specification is checked without TensorFlow;
:mod:`tltf.data.augmentation` applies them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from tltf.errors import ArgumentError, nearest

FILLS = ("reflect", "nearest", "constant", "wrap")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Ranges of the random changes; every draw is uniform, 0 switches a change off.

    Args:
      flip: mirror left to right with probability one half.
      rotation: by up to this many degrees either way, in [0, 180].
      zoom: magnify by a factor in [1 - zoom, 1 + zoom], the same for both axes, zoom in [0, 1).
      shear: shift the bottom row against the top row by up to this share of the height either
        way, in [0, 1]: a slope, not an angle; 0.2 is the tangent of 11.3 degrees. (The
        ``shear_range`` of Keras' old ImageDataGenerator is in degrees: its 0.2 moves nothing.)
      brightness: add up to this share of 255 either way, in [0, 1].
      contrast: scale the distance from the image's mean by [1 - contrast, 1 + contrast], [0, 1].
      fill: what stands beyond the border: ``reflect``, ``nearest``, ``constant`` (black), ``wrap``.

    Raises:
      ArgumentError: a value out of its range.

    Example::

      Policy(flip=True, shear=0.2, zoom=0.2)
    """

    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    fill: str = "reflect"

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "zoom": 1.0, "shear": 1.0, "brightness": 1.0, "contrast": 1.0}
        for name, high in limits.items():
            value = getattr(self, name)
            is_open = name == "zoom"  # a factor of 0 would have no inverse
            if not 0.0 <= value <= high or (is_open and value == high):
                raise ArgumentError(
                    f"{name}={value!r}, expected a number in [0, {high:g}{')' if is_open else ']'}",
                    where="--augment",
                )
        if self.fill not in FILLS:
            raise ArgumentError(
                f"fill={self.fill!r}, expected one of {', '.join(FILLS)}"
                f"{nearest(self.fill, FILLS)}",
                where="--augment",
            )

    @property
    def moves(self) -> bool:
        """Whether pixels have to be resampled."""
        return any((self.rotation, self.zoom, self.shear))

    @property
    def recolours(self) -> bool:
        """Whether brightness or contrast change."""
        return any((self.brightness, self.contrast))


POLICIES: Mapping[str, Policy] = {
    "none": Policy(),
    "light": Policy(flip=True, rotation=5.0, zoom=0.1),
    "medium": Policy(flip=True, rotation=15.0, zoom=0.2, shear=0.1, brightness=0.1, contrast=0.1),
    "strong": Policy(flip=True, rotation=25.0, zoom=0.3, shear=0.2, brightness=0.2, contrast=0.3),
}
FIELDS = tuple(field.name for field in dataclasses.fields(Policy))


def policy(text: str) -> Policy:
    """The policy that ``--augment=text`` means.

    Args:
      text: ``none``, ``light``, ``medium`` or ``strong``; or fields of :class:`Policy` in any
        order, ``flip`` without a value, the others as ``name=value``. A field that is left out
        is off.

    Raises:
      ArgumentError: an unknown name or field (the nearest is named), a field twice, a value that
        is missing or out of range.

    >>> policy("flip,shear=0.2,zoom=0.2") == Policy(flip=True, shear=0.2, zoom=0.2)
    True
    """
    if text in POLICIES:
        return POLICIES[text]
    given: dict[str, bool | float | str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in FIELDS:
            raise _unknown(name, text)
        if name in given:
            raise ArgumentError(f"augment={text!r} gives {name} twice", where="--augment")
        given[name] = _value(name, value if equals else None)
    return Policy(**given)  # type: ignore[arg-type]


def _value(name: str, value: str | None) -> bool | float | str:
    """One field's value; its range is the business of :class:`Policy`."""
    if name == "flip":
        if value is None or value.lower() in ("true", "false"):
            return value is None or value.lower() == "true"
        raise ArgumentError(
            f"flip={value!r} has no amount", where="--augment", next_action="write flip alone"
        )
    if name == "fill" and value:
        return value
    try:
        return float(value or "")
    except ValueError:
        expected = f"one of {', '.join(FILLS)}" if name == "fill" else "a number"
        raise ArgumentError(
            f"{name}={value or ''!r}, expected {expected}",
            where="--augment",
            next_action="for example --augment=flip,shear=0.2,zoom=0.2",
        ) from None


def _unknown(name: str, text: str) -> ArgumentError:
    alone = name in POLICIES
    known = FIELDS if "," in text or "=" in text else (*POLICIES, *FIELDS)
    what = f"{name!r} stands alone, without further fields" if alone else f"unknown {name!r}"
    return ArgumentError(
        f"augment={text!r}: {what}, expected one of {', '.join(POLICIES)},"
        f" or fields out of {', '.join(FIELDS)}{'' if alone else nearest(name, known)}",
        where="--augment",
        next_action="for example --augment=flip,shear=0.2,zoom=0.2",
    )
