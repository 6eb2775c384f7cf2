"""Version folders that a server may read at any moment."""

from __future__ import annotations

from pathlib import Path

from tltf import storage
from tltf.errors import OutputError

ATTEMPTS = 100


def versions(folder: Path) -> list[int]:
    """The published versions, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(item.name) for item in folder.iterdir() if item.name.isdecimal())


def newest(folder: Path) -> Path | None:
    """The folder of the newest version, or None."""
    found = versions(folder)
    return folder / str(found[-1]) if found else None


def commit(temporary: Path, folder: Path) -> Path:
    """Renames a complete servable to the next version: max + 1, never a time.

    Two publishers at once get two numbers.
    """
    for _ in range(ATTEMPTS):
        final = folder / str(max(versions(folder), default=0) + 1)
        try:
            storage.commit_folder(temporary, final)
        except FileExistsError:
            continue
        return final
    raise OutputError(
        f"no free version number after {ATTEMPTS} attempts",
        where=folder,
        next_action="see who else publishes there",
    )
