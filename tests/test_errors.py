"""The one line that a person reads after a failure, and its exit code."""

from __future__ import annotations

import pytest

from tltf import errors
from tltf.errors import ArgumentError, InterruptedRun, TltfError, named_list, nearest, printable

CODES = {
    "TltfError": 1,
    "ArgumentError": 64,
    "DataError": 65,
    "InputMissingError": 66,
    "DownloadError": 69,
    "OutputError": 73,
    "StorageError": 74,
    "OutOfMemoryError": 74,
    "BusyError": 75,
    "WorkerLostError": 75,
    "SecurityError": 77,
    "MismatchError": 78,
    "GateError": 79,
    "DivergenceError": 80,
    "TrainabilityError": 1,
    "InterruptedRun": 130,
}


def test_the_table_is_complete() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, TltfError)
    }
    assert ours == set(CODES)


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_each_kind_has_its_exit_code(name: str, code: int) -> None:
    error = getattr(errors, name)("what", where="here", kept="this", next_action="do that")
    assert error.exit_code == code
    assert str(error) == error.line() == "tltf: what (here); kept: this; next: do that"
    assert error.as_dict() == {
        "exit_code": code,
        "error": name,
        "what": "what",
        "where": "here",
        "kept": "this",
        "next": "do that",
    }


def test_the_built_ins_that_people_catch() -> None:
    assert issubclass(errors.ArgumentError, ValueError)
    assert issubclass(errors.InputMissingError, FileNotFoundError)
    assert issubclass(errors.StorageError, OSError)


def test_terminated_is_143() -> None:
    assert InterruptedRun("stopped", signal_number=15).exit_code == 143


def test_a_line_is_one_line_that_keeps_its_end() -> None:
    line = ArgumentError("x\n" * 400, where="w" * 300, kept="k", next_action="act now").line()
    assert len(line) <= 400
    assert line.endswith("; kept: k; next: act now")
    assert line.isprintable()
    assert len(ArgumentError("w", next_action="a" * 900).line()) <= 400


def test_names_cannot_drive_a_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    assert printable("Größe 猫") == "Größe 猫"


def test_nearest_and_named_list() -> None:
    assert nearest("vgg61", ["VGG16", "ResNet50"]) == "; did you mean 'VGG16'?"
    assert nearest("zzz", ["VGG16"]) == ""
    assert named_list("abc") == "a, b, c"
    assert named_list("abcdefg", most=2) == "a, b and 5 more"
