"""What answers at once: help, flag errors and the plain core import no TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LIGHT = ("errors", "spec", "recipes", "rundir", "storage", "backbones.catalog", "evaluation.gate")
HEAVY = (
    "numpy",
    "tensorflow",
    "keras",
    "sklearn",
    "matplotlib",
    "tensorflow_datasets",
    "tensorflow_hub",
)

PROGRAM = """
import contextlib, importlib, io, json, sys
light, heavy, commands = json.loads(sys.argv[1])
loaded = lambda: [name for name in heavy if name in sys.modules]
rows = []
for name in light:
    importlib.import_module("tltf." + name)
    rows.append([name, 0, loaded()])
from tltf.cli.app import COMMANDS, command_module, dispatch
argvs = [[name, "--help"] for name in COMMANDS] + commands
for argv in argvs:
    if argv and argv[0] in COMMANDS:
        command_module(argv[0]).FLAGS.unparse_flags()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = dispatch(argv)
    rows.append([argv, code, loaded()])
print(json.dumps(rows))
"""

ANSWERED = {
    0: (["--help"], ["help"], ["--version"], ["train", "-h"]),
    64: (
        [],
        ["trian"],
        ["train", "--bakbone=VGG16"],
        ["train", "--augment=lihgt", "--data=x", "--backbone=VGG16", "--workdir=y"],
        ["train", "--data=x", "--backbone=VGG", "--workdir=y"],
        ["train", "--backbone=VGG16", "--workdir=y"],
        ["train", "--data=x", "--backbone=VGG16", "--workdir=y", "--unfreeze=top"],
        ["train", "--data=x", "--backbone=VGG16", "--workdir=y", "--assert_metric=good"],
        ["train", "photos"],
        ["predict", "--model=x"],
        ["export", "--to=x"],
        ["export", "--run=x", "--to=y", "--litert=int4"],
        ["serve"],
        ["serve", "--model=x", "--port=99999"],
    ),
    66: (
        ["train", "--data=no-such-folder", "--backbone=VGG16", "--workdir=y"],
        ["evaluate", "--run=no-such-run", "--data=x"],
        ["predict", "--model=no-such-run", "--inputs=x"],
        ["predict", "--model=.", "--inputs=no-such-file"],
        ["serve", "--model=no-such-servable"],
    ),
}


def test_help_and_flag_errors_import_no_tensorflow(tmp_path: Path) -> None:
    commands = [argv for argvs in ANSWERED.values() for argv in argvs]
    expected = [code for code, argvs in ANSWERED.items() for _ in argvs]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([LIGHT, HEAVY, commands])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)
    assert [row for row in rows if row[2]] == []
    assert [code for _, code, _ in rows[-len(expected) :]] == expected
    assert all(code == 0 for _, code, _ in rows[: -len(expected)])
    assert list(tmp_path.iterdir()) == []
