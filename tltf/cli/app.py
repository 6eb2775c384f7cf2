"""``tltf <command>``: finds the command, parses its flags, and turns errors into exit codes.

Neither this module nor a command's module imports TensorFlow before its flags are right, so
``--help`` and every flag error answer at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import NoReturn

from absl import flags

import tltf
from tltf.errors import ArgumentError, InterruptedRun, TltfError, nearest, printable

COMMANDS = {
    "demo": "the whole story offline on real data: pretrain, transfer, compare, report, serve",
    "audit": "what is in the data and what is wrong with it",
    "index": "a table of millions of images, scanned and split once, opened at once",
    "train": "a folder of labelled images becomes a measured, servable classifier",
    "launch": "one training in several local processes, as a cluster runs it",
    "adapt": "labelled source data and other target data become a model for the target",
    "compare": "does transfer help? runs side by side; distance to other data",
    "evaluate": "a report of a run on other data",
    "predict": "labels and probabilities for files, as JSON lines",
    "serve": "try a servable on this machine, by TF Serving's REST interface and a page",
    "export": "verify and publish a run's model as a SavedModel",
    "embed": "features of a frozen network for many images, by shards, here or by Apache Beam",
    "rank": "which backbone fits the data, measured within a budget",
    "episodes": "few labels of new classes: heads and meta-learning, measured over 600 episodes",
    "tune": "head, depth, rates and augmentation searched on validation, within a budget",
    "doctor": "what this machine has, what it lacks, and the remedies",
    "cache": "what frozen networks computed and runs will use again: list it, make room",
    "pretrain": "train a backbone from scratch, for --backbone=file:WORKDIR",
}
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")
DEBUG = "debug"

Run = Callable[[flags.FlagValues], None]


@dataclass(frozen=True)
class Program:
    """One command or binary.

    Args:
      name: as it is typed, for example ``tltf train``.
      about: what ``--help`` says before the flags.
      flag_values: its flags.
      run: does the work; called with the parsed flags.
      positional: the list flag that takes what is given without a flag, if anything may be.
      refused: flags that its relatives have and that would change nothing here, with the reason.
        Their defaults may be written, as the flag file of an earlier run does; ``--help`` is silent
        about them.
    """

    name: str
    about: str
    flag_values: flags.FlagValues
    run: Run
    positional: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``tltf`` command; ends the process with the exit code of DESIGN 5."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    leave(dispatch(arguments))


def leave(code: int) -> NoReturn:
    """Ends the process without a last search for garbage, which takes a second with TensorFlow."""
    gc.freeze()
    sys.exit(code)


def dispatch(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    with _reader_may_leave():
        return _dispatched(arguments)
    return 0


def _dispatched(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in HELP or arguments[0] == "help":
        print(overview())
        return 0 if arguments else ArgumentError.exit_code
    if arguments[0] == "--version":
        print(f"tltf {tltf.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        error = ArgumentError(
            f"unknown command {arguments[0]!r}{nearest(arguments[0], COMMANDS)}",
            where=f"expected one of {', '.join(COMMANDS)}",
            next_action="see tltf --help",
        )
        return _told(error)
    module = command_module(arguments[0])
    return execute(module.PROGRAM, arguments[1:])


def command_module(name: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"tltf.cli.{name}")


def overview() -> str:
    """What ``tltf --help`` prints."""
    rows = "\n".join(f"  tltf {name:<9} {text}" for name, text in COMMANDS.items())
    return (
        f"tltf {tltf.__version__}: transfer learning for TensorFlow\n\n{rows}\n\n"
        "Flags of a command: tltf COMMAND --help.  Start with: tltf demo"
    )


def execute(program: Program, arguments: Sequence[str]) -> int:
    """Parses the flags and runs the program; returns the exit code.

    The last line on stderr after a failure says what, where, what was kept and the one next
    action; a traceback is shown only with ``--debug``.
    """
    with _reader_may_leave():
        return _executed(program, arguments)
    return 0


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """A reader of our output that went away (`tltf predict | head`) is nothing wrong here."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python still holds for the reader would be tried again, and fail, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _executed(program: Program, arguments: Sequence[str]) -> int:
    values = program.flag_values
    if DEBUG not in values:
        flags.DEFINE_bool(DEBUG, False, "Show tracebacks.", flag_values=values)
    if any(argument in HELP for argument in arguments):
        print(help_text(program))
        return 0
    try:
        _parse(program, arguments)
        _check_refused(program)
        program.run(values)
    except TltfError as error:
        return _told(error, debug=_debug(values))
    except KeyboardInterrupt:
        return _told(InterruptedRun("interrupted", next_action="run the same command again"))
    except BrokenPipeError:
        raise
    except Exception as error:
        return _told(_bug(error), debug=_debug(values))
    return 0


def help_text(program: Program) -> str:
    """Usage, then every flag with its type, default and meaning, sorted by name."""
    lines = [f"{program.name}: {program.about}", "", "Flags:"]
    for name, flag in sorted(program.flag_values._flags().items()):
        if name != flag.name or name in ("flagfile", "undefok", *program.refused):
            continue
        default = "" if flag.default in (None, "") else f"  (default: {flag.default_as_str})"
        lines.append(f"  --{name}{_form(flag)}{default}")
        lines.append(f"      {_about(flag)}")
    lines += ["  --flagfile=FILE", "      Read flags from a file, one on each line."]
    return "\n".join(lines)


def _about(flag: flags.Flag) -> str:
    """The flag's help; absl puts the values of an enumeration in front, _form has them."""
    return re.sub(r"^<[^>]*>: ", "", flag.help or "")


def _form(flag: flags.Flag) -> str:
    if isinstance(flag, flags.BooleanFlag):
        return f", --no{flag.name}"
    if isinstance(flag, flags.EnumFlag):
        return "=" + "|".join(flag.parser.enum_values)
    kind = {"int": "N", "float": "X"}.get(flag.flag_type(), "TEXT")
    return f"={kind}"


def _parse(program: Program, arguments: Sequence[str]) -> None:
    values = program.flag_values
    # absl keeps what an earlier call in this process parsed.
    values.unparse_flags()
    try:
        rest = values([program.name, *arguments])
    except flags.UnrecognizedFlagError as error:
        raise ArgumentError(
            f"unknown flag --{error.flagname}{nearest(error.flagname, [*values, 'help'])}",
            where=program.name,
            next_action=f"see {program.name} --help",
        ) from error
    except flags.IllegalFlagValueError as error:
        raise ArgumentError(
            f"{error}{_nearest_value(str(error), values)}",
            where=program.name,
            next_action=f"see {program.name} --help",
        ) from error
    except flags.Error as error:
        raise ArgumentError(
            str(error), where=program.name, next_action=f"see {program.name} --help"
        ) from error
    if program.positional and len(rest) > 1:
        values[program.positional].value = rest[1:]
    elif len(rest) > 1:
        raise ArgumentError(
            f"unexpected argument {rest[1]!r}",
            where=program.name,
            next_action="pass everything as --flag=value",
        )


def _check_refused(program: Program) -> None:
    for name, why in program.refused.items():
        flag = program.flag_values[name]
        if flag.value != flag.default:
            raise ArgumentError(
                f"--{name}={flag.value} with {program.name}, {why}",
                where=f"--{name}",
                next_action="leave it out",
            )


def _nearest_value(message: str, values: flags.FlagValues) -> str:
    match = re.match(r"flag --(\w+)=(.*?):", message)
    flag = values[match.group(1)] if match and match.group(1) in values else None
    if not isinstance(flag, flags.EnumFlag) or match is None:
        return ""
    return nearest(match.group(2), flag.parser.enum_values)


def _debug(values: flags.FlagValues) -> bool:
    return bool(values.is_parsed() and values[DEBUG].value)


def _told(error: TltfError, *, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(error.line(), file=sys.stderr)
    return error.exit_code


def _bug(error: Exception) -> TltfError:
    return TltfError(
        f"this is a bug: {type(error).__name__}: {printable(str(error))[:200]}",
        next_action="run it again with --debug and report what it prints",
    )
