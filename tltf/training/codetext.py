"""Values and code as JSON, so that two of them with the same text do the same.

A function is its bytecode with its constants, defaults, closure and the globals that it names; a
class its methods and its ancestors. What comes with an installed package, Python or Keras is its
name and version. Anything else raises: no text is better than one that leaves something out.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

# Their versions are in every key, or, of tltf, the source.
_KNOWN = {"keras", "tensorflow", "numpy", "tltf", "builtins"}
_NOT_CODE = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__",
    "__firstlineno__", "__static_attributes__", "__annotate__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "_abc_impl",
}  # fmt: skip
_FUNCTIONS = types.FunctionType | types.MethodType | types.BuiltinFunctionType | np.ufunc


class UnknownValueError(Exception):
    """A value that has no text; the message names it."""


def qualified(thing: Any) -> str:
    """``mine.layers.Shift``."""
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing).__name__))
    return f"{_module(thing)}.{name}"


def is_foreign(thing: Any) -> bool:
    """Whether code was written by the one who runs it: neither installed nor Python's nor ours."""
    if isinstance(thing, functools.partial):
        return True
    if not isinstance(thing, type | types.ModuleType | _FUNCTIONS):
        thing = type(thing)
    return not _version(_module(thing).partition(".")[0])


def _module(thing: Any) -> str:
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    if isinstance(thing, np.ufunc):
        return "numpy"
    own = getattr(thing, "__self__", None)
    module = getattr(thing, "__module__", None) or getattr(type(own), "__module__", None)
    return str(module or "")


@functools.cache
def _version(root: str) -> str:
    """Of an installed package, or an empty text."""
    if root in _KNOWN:
        return "known"
    if root in sys.stdlib_module_names and root != "__main__":
        return sys.version
    file = str(getattr(sys.modules.get(root), "__file__", None) or "")
    # A package that is installed in place has one version for many states.
    if "site-packages" not in file and "dist-packages" not in file:
        return ""
    names = metadata.packages_distributions().get(root, [])
    return " ".join(f"{name} {metadata.version(name)}" for name in sorted(set(names)))


class Described:
    """Call it with a value; one instance for what belongs together, since it may go in circles."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def __call__(self, value: Any) -> Any:
        """JSON-able.

        Raises:
          UnknownValueError: the value, or something in it, has no text.
        """
        if value is None or (
            isinstance(value, bool | int | str) and type(value) in (bool, int, str)
        ):
            return value
        if isinstance(value, float | complex | bytes | range | type(...)):
            return [type(value).__name__, repr(value)]
        if isinstance(value, slice):
            return ["slice", self(value.start), self(value.stop), self(value.step)]
        if isinstance(value, list | tuple):
            return ["list", [self(item) for item in value]]
        if isinstance(value, set | frozenset):
            return ["set", sorted(repr(self(item)) for item in value)]
        if isinstance(value, Mapping):
            pairs = [[self(key), self(item)] for key, item in value.items()]
            return ["mapping", sorted(pairs, key=repr)]
        if isinstance(value, np.ndarray | np.generic):
            return self.array(np.asarray(value))
        if isinstance(value, enum.Enum):
            return ["member", qualified(type(value)), value.name]
        return self.special(value)

    def array(self, value: np.ndarray) -> Any:
        """By its content."""
        if value.dtype.hasobject:
            raise UnknownValueError("an array of Python objects")
        data = np.ascontiguousarray(value).tobytes()
        return ["array", value.dtype.name, list(value.shape), hashlib.sha256(data).hexdigest()]

    def special(self, value: Any) -> Any:
        """What is neither a plain value nor a collection."""
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # so that no other object gets its number
        if isinstance(value, np.dtype):
            return ["dtype", str(value)]
        if isinstance(value, functools.partial):
            return ["partial", *map(self, (value.func, value.args, value.keywords))]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self(value.__func__)]
        if isinstance(value, property):
            return ["property", self(value.fget)]
        if isinstance(value, functools.cached_property):
            return ["property", self(value.func)]
        if isinstance(value, type | types.ModuleType | _FUNCTIONS):
            return self._code(value)
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return ["fields", self(type(value)), self(fields)]
        raise UnknownValueError(f"a value of {qualified(type(value))}")

    def _code(self, value: Any) -> Any:
        if not is_foreign(value):
            return ["name", qualified(value), _version(_module(value).partition(".")[0])]
        if isinstance(value, types.MethodType):
            if isinstance(value.__self__, type):
                return ["method", self(value.__self__), self(value.__func__)]
            return ["method", self(value.__func__)]  # of an object whose attributes are described
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            members = {k: v for k, v in vars(value).items() if k not in _NOT_CODE}
            bases = [self(base) for base in value.__bases__]
            return ["class", value.__qualname__, bases, self(members)]
        raise UnknownValueError(f"{qualified(value)}, which is not part of an installed package")

    def _function(self, function: types.FunctionType) -> Any:
        names = sorted(_names(function.__code__) & function.__globals__.keys())
        closure = [_content(cell) for cell in function.__closure__ or ()]
        return [
            "function",
            self._bytecode(function.__code__),
            self([function.__defaults__, function.__kwdefaults__, closure]),
            [[name, self(function.__globals__[name])] for name in names],
        ]

    def _bytecode(self, code: types.CodeType) -> Any:
        consts = [
            self._bytecode(c) if isinstance(c, types.CodeType) else self(c) for c in code.co_consts
        ]
        names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        return [code.co_code.hex(), consts, *map(list, names)]


def _names(code: types.CodeType) -> set[str]:
    """Of globals and attributes, in the functions within too."""
    within = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*within)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError as error:
        raise UnknownValueError("a variable of a closure that is not set yet") from error
