"""One family of exceptions; each carries its exit code and its next action.

The command line turns an error into one last line on stderr::

    tltf: <what> (<where>); kept: <artifact@step>; next: <one action>

Library users catch :class:`TltfError`, or the built-in that a class also is
(``ArgumentError`` is a ``ValueError``, ``InputMissingError`` a ``FileNotFoundError``).
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MAX_LINE = 400


class TltfError(Exception):
    """Base of everything that tltf raises on purpose.

    Args:
      what: what was passed and what was expected, one sentence without a full stop.
      where: the file, field, phase or step that it is about.
      kept: what of the work so far is safe on disk.
      next_action: the one thing to do next.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: object = "", kept: object = "", next_action: str = ""
    ) -> None:
        self.what = str(what)
        self.where = str(where)
        self.kept = str(kept)
        self.next_action = next_action
        super().__init__(self.line())

    def __str__(self) -> str:
        # Who passes an error on may add to `where` and `kept`.
        return self.line()

    def line(self) -> str:
        """The message as one printable line of at most 400 characters."""
        where = f" ({self.where})" if self.where else ""
        tail = f"; kept: {self.kept}" if self.kept else ""
        tail += f"; next: {self.next_action}" if self.next_action else ""
        head, tail = printable(f"tltf: {self.what}{where}"), printable(tail)
        room = MAX_LINE - min(len(tail), MAX_LINE // 2)
        head = head if len(head) <= room else head[: room - 1] + "…"
        return (head + tail)[:MAX_LINE]

    def as_dict(self) -> dict[str, object]:
        """The fields of ``error.json``."""
        return {
            "exit_code": self.exit_code,
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "kept": self.kept,
            "next": self.next_action,
        }


class ArgumentError(TltfError, ValueError):
    """A flag, field or argument is unknown, out of range, or contradicts another."""

    exit_code = 64


class DataError(TltfError, ValueError):
    """The data cannot be used as it is: unreadable files, labels, empty splits."""

    exit_code = 65


class InputMissingError(TltfError, FileNotFoundError):
    """A file or folder that was named does not exist."""

    exit_code = 66


class DownloadError(TltfError, OSError):
    """Something is neither on this machine nor to be had from the network."""

    exit_code = 69


class OutputError(TltfError, OSError):
    """The output cannot be created where it was asked for."""

    exit_code = 73


class StorageError(TltfError, OSError):
    """Reading or writing failed midway: disk full, damaged file, I/O error."""

    exit_code = 74


class OutOfMemoryError(TltfError, MemoryError):
    """The machine or the device has not enough memory for this batch size or model."""

    exit_code = 74


class BusyError(TltfError, OSError):
    """Another run holds the folder."""

    exit_code = 75


class WorkerLostError(TltfError):
    """Another process of the same training ended or cannot be reached."""

    exit_code = 75


class SecurityError(TltfError):
    """Refused because loading it could run foreign code or leave its folder."""

    exit_code = 77


class MismatchError(TltfError):
    """The run in the folder was started with other settings or other data."""

    exit_code = 78


class GateError(TltfError):
    """A metric that was asked for with --assert_metric was not reached."""

    exit_code = 79


class DivergenceError(TltfError, ArithmeticError):
    """The loss or a weight became NaN or infinite."""

    exit_code = 80


class TrainabilityError(TltfError, RuntimeError):
    """What should be frozen moved, or what should be trained cannot."""

    exit_code = 1


class InterruptedRun(TltfError):
    """Stopped by a signal; the same command resumes."""

    exit_code = 130

    def __init__(self, what: str, *, signal_number: int = 2, **fields: object) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(what, **fields)  # type: ignore[arg-type]


def printable(text: str) -> str:
    """Escapes control and format characters, so that a name cannot drive a terminal.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():  # all but a few, and pictures as long as a book
        return text
    return "".join(
        c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known word, or an empty string.

    >>> nearest("MobilNetV2", ["VGG16", "MobileNetV2"])
    "; did you mean 'MobileNetV2'?"
    """
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]!r}?" if match else ""


def named_list(names: Iterable[object], *, most: int = 5) -> str:
    """``a, b, c and 4 more``: a list that fits into one line."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
