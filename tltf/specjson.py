"""Frozen dataclasses from parsed JSON, all or nothing, and their fields side by side."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from tltf.errors import ArgumentError, nearest


def read(kind: type[Any], values: object, where: str) -> Any:
    """Builds the dataclass ``kind`` from parsed JSON, all or nothing."""
    if not isinstance(values, Mapping):
        raise ArgumentError(f"got {type(values).__name__}, expected an object", where=where)
    hints = typing.get_type_hints(kind)
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise ArgumentError(
            f"unknown key {unknown[0]!r}{nearest(str(unknown[0]), hints)}", where=where
        )
    fields = {}
    for key, value in values.items():
        hint, place = hints[key], f"{where}.{key}"
        if dataclasses.is_dataclass(hint):
            value = read(typing.cast(type, hint), value, place)
        elif typing.get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise ArgumentError(f"got {value!r}, expected a list", where=place)
            item = typing.get_args(hint)[0]
            if dataclasses.is_dataclass(item):
                value = [read(typing.cast(type, item), v, place) for v in value]
            value = tuple(value)
        elif not _fits(value, hint):
            raise ArgumentError(f"got {value!r}, expected {hint}", where=place)
        fields[key] = value
    try:
        return kind(**fields)
    except TypeError as error:
        raise ArgumentError(str(error), where=where) from error


def _fits(value: object, hint: object) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, tuple(k for k in kinds if isinstance(k, type)))


def flatten(values: object, prefix: str = "") -> dict[str, object]:
    if isinstance(values, dict):
        return {k: v for key, x in values.items() for k, v in flatten(x, f"{prefix}{key}.").items()}
    if isinstance(values, list | tuple) and any(isinstance(x, dict) for x in values):
        named = {str(x.get("name", i)): x for i, x in enumerate(values)}
        return flatten(named, prefix)
    return {prefix.rstrip("."): list(values) if isinstance(values, tuple) else values}
