"""S7: data, then the rename, then the folder, each durable before the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from faults import writer


def test_nothing_is_renamed_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.prepare(tmp_path / "run")
    synced: set[str] = set()
    commits: list[str] = []
    waiting: list[tuple[str, set[str]]] = []
    fsync, renames = os.fsync, {name: getattr(Path, name) for name in ("rename", "replace")}

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        synced.add(path)
        waiting[:] = [(folder, content) for folder, content in waiting if folder != path]

    def recorded(name: str) -> Any:
        def rename(self: Path, target: Path) -> Path:
            own = {str(self)} if self.is_file() else {str(p) for p in self.rglob("*")} | {str(self)}
            new = not Path(target).name.startswith(".tmp-")
            if new and self.name.startswith(".tmp-"):
                assert own <= synced, f"{own - synced} renamed before its fsync"
                commits.append(Path(target).name)
                waiting.append((str(Path(target).parent), own))
            synced.difference_update(own)
            return renames[name](self, target)

        return rename

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    for name in renames:
        monkeypatch.setattr(Path, name, recorded(name))
    writer.commits(tmp_path / "run", 3)
    monkeypatch.undo()
    assert len(commits) > 10
    assert waiting == [], "a folder was not synced after a rename in it"
