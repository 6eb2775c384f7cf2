"""What every recipe's binary is: the flags of ``tltf train`` over a specification of its own."""

from __future__ import annotations

import sys
from typing import NoReturn

from absl import flags

from tltf.cli import run_flags, spec_flags
from tltf.cli.app import Program, Run, execute, leave
from tltf.spec import TransferSpec


def recipe(name: str, about: str | None, default: TransferSpec) -> Program:
    """A binary that runs ``default``, with every field as a flag.

    Args:
      name: of the module below ``experiments``.
      about: its docstring, which ``--help`` shows.
      default: what it reproduces.
    """

    def run(values: flags.FlagValues) -> None:
        run_flags.run_spec(values, default)

    return program(name, about, default, run)


def program(name: str, about: str | None, default: TransferSpec, run: Run) -> Program:
    """As :func:`recipe`, for one that does more than one run; it may add flags of its own."""
    values = flags.FlagValues()
    spec_flags.define(values, default)
    run_flags.define(values)
    return Program(f"python -m experiments.{name}", (about or "").strip(), values, run)


def main(program: Program) -> NoReturn:
    """Ends the process with the exit code of DESIGN 5: 0 for ``--help``, 64 for a wrong flag."""
    leave(execute(program, sys.argv[1:]))
