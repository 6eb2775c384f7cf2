"""The run folder: who holds it, what may be in it, what a second call must agree with."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tltf import rundir, sealed, storage
from tltf.errors import BusyError, InputMissingError, MismatchError, OutputError
from tltf.rundir import RunDir
from tltf.spec import BackboneSpec, DataSpec, Phase, TransferSpec

SPEC = TransferSpec(
    data=DataSpec(source="photos", task="single_label"),
    backbone=BackboneSpec(name="VGG16", image_size=224),
    phases=(Phase("head", 3, 1e-3, unfreeze="none"), Phase("tune", 5, 1e-4, unfreeze="last:2")),
    augment="light",
    batch_size=32,
    early_stop=5,
    precision="float32",
    jit="off",
)
OPEN = TransferSpec(data=DataSpec(source="photos"), backbone=BackboneSpec(name="VGG16"))

HOLD = """
import sys
from tltf import rundir
with rundir.opened(sys.argv[1]) as run:
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        expected = rf"pid {holder.pid} on {socket.gethostname()} since \d{{4}}-\d\d-\d\dT"
        with pytest.raises(BusyError, match=expected) as error, rundir.opened(folder):
            pass
        assert error.value.exit_code == 75
        holder.stdin.write("\n")
    with rundir.opened(folder) as run:
        assert (run.path / ".lock").read_text().startswith(f"pid {os.getpid()} on ")


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    with rundir.opened(tmp_path):
        pass


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"not a run's: thesis\.tex"), rundir.opened(tmp_path):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path / "run.csv": r"name of a file.*--workdir=.*next: name a folder, for example .*run",
        tmp_path / "file": "it is a file: name a folder",
        tmp_path / "file" / "run": "Not a directory",
    }
    for place, message in cases.items():
        with pytest.raises(OutputError, match=message) as error, rundir.opened(place):
            pass
        assert error.value.exit_code == 73
    with rundir.opened(tmp_path / "no" / "such" / "run") as run:
        assert run.path == tmp_path / "no" / "such" / "run"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), rundir.opened(tmp_path):
        pass


def test_litter_of_a_killed_writer_goes_and_nothing_else(tmp_path: Path) -> None:
    with rundir.opened(tmp_path) as run:
        run.states.mkdir()
    storage.sibling(tmp_path / "spec.json").write_text("half")
    storage.sibling(run.states / "12").mkdir()
    (tmp_path / "notes.tmp").write_text("mine")
    with rundir.opened(tmp_path):
        pass
    assert {item.name for item in tmp_path.iterdir()} == {".lock", "state", "notes.tmp"}
    assert list(run.states.iterdir()) == []


def saved(folder: Path) -> RunDir:
    run = RunDir(folder)
    run.commit(run.spec, SPEC.to_json())
    return run


def test_what_was_left_open_is_the_runs_own(tmp_path: Path) -> None:
    run = saved(tmp_path)
    assert run.agree(OPEN) == SPEC
    assert run.agree(SPEC) == SPEC
    assert rundir.existing(tmp_path).read_spec() == SPEC


def test_each_field_that_differs_is_named_old_to_new(tmp_path: Path) -> None:
    run = saved(tmp_path)
    other = dataclasses.replace(OPEN, seed=7, batch_size=16)
    with pytest.raises(MismatchError, match=r"batch_size: 32 -> 16, seed: 0 -> 7") as error:
        run.agree(other)
    assert error.value.exit_code == 78
    assert "--fresh" in error.value.next_action
    tuned = dataclasses.replace(OPEN, phases=(OPEN.phases[0], Phase("tune", 9)))
    with pytest.raises(MismatchError, match=r"tune\.epochs: 5 -> 9"):
        run.agree(tuned)
    fewer = dataclasses.replace(OPEN, phases=OPEN.phases[:1])
    with pytest.raises(MismatchError, match="tune"):
        run.agree(fewer)
    with pytest.raises(MismatchError, match="jit: 'off' -> 'on'"):
        run.agree(dataclasses.replace(OPEN, jit="on"))


def test_clear_removes_what_is_ours_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    with rundir.opened(tmp_path / "run") as run:
        saved(run.path)
        run.record(finished=True)
        with sealed.committed(run.weights) as folder:
            (folder / "model.json").write_text("{}")
        (run.weights / "mine.txt").write_text("mine")
        run.report.mkdir()
        (run.report / "notes.txt").write_text("mine")
        run.export.symlink_to(tmp_path / "elsewhere")
        (run.path / "notes.md").write_text("mine")
        run.clear()
        left = {item.name for item in run.path.iterdir()}
        inside = {
            item.name for name in ("weights", "report") for item in (run.path / name).iterdir()
        }
    assert left == {".lock", "notes.md", "weights", "report"}
    assert inside == {"mine.txt", "notes.txt"}
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_progress_is_merged(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    start = run.stage()
    assert start["finished"] is False
    run.record(plan=[1])
    run.record(finished=True)
    assert run.stage() == {**start, "plan": [1], "finished": True}


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no run here"):
        rundir.existing(tmp_path)


def test_the_names_are_the_ones_that_clear_knows() -> None:
    run = RunDir(Path("x"))
    properties = [n for n, v in vars(RunDir).items() if isinstance(v, property)]
    assert {getattr(run, name).name for name in properties} <= set(rundir.OURS)


def test_the_holder_may_clear_away_the_probe_of_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch = Path.touch

    def cleared(self: Path) -> None:
        touch(self)
        sealed.remove_litter(self.parent)

    monkeypatch.setattr(Path, "touch", cleared)
    rundir.check_writable(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
