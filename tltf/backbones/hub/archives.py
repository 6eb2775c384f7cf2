"""Archives of modules: checked as a whole before the first byte is written."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from tltf.errors import DataError, SecurityError, StorageError

MAX_MEMBERS = 10_000
MAX_RATIO, ROOM_BYTES = 200, 100_000_000


def unpack(archive: Path, folder: Path) -> None:
    """Extracts a ``.tar.gz`` into the existing, empty ``folder``.

    Args:
      archive: whose members are plain files and folders, with relative names.
      folder: a private place.

    Raises:
      SecurityError: a name that leaves the folder, a link or device, more than
        :data:`MAX_MEMBERS` members, or more than :data:`MAX_RATIO` times the archive's own size.
      DataError: not a readable archive.
      StorageError: not enough room.
    """
    try:
        with _Bounded(archive) as plain, tarfile.open(fileobj=plain, mode="r:") as file:
            total = _check(file, archive, plain.limit)
            free = shutil.disk_usage(folder).free
            if total > free:
                raise StorageError(
                    f"the archive needs {total / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
                    where=folder,
                    next_action="free some space",
                )
            extract(file, folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise DataError(f"cannot read the archive: {error}", where=archive) from error


def extract(file: tarfile.TarFile, folder: Path) -> None:
    """``extractall`` by Python's ``data`` filter; Python 3.11.0 to 3.11.3 has none.

    There nothing but names and sizes stands between a member and the disk: extract what was checked
    as :func:`unpack` does, or what is your own.
    """
    by = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    file.extractall(folder, **by)


class _Bounded(gzip.GzipFile):
    """Never reads further than the archive may unpack to, in headers neither."""

    def __init__(self, archive: Path) -> None:
        super().__init__(archive, "rb")
        self.archive = archive
        self.limit = MAX_RATIO * archive.stat().st_size + ROOM_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > 2 * self.limit:
            raise _refused(self.archive, f"it unpacks to more than {self.limit / 1e6:.0f} MB")
        return super().read(size)


def _check(file: tarfile.TarFile, archive: Path, limit: int) -> int:
    """The size of all members together; a size is seen before its content is unpacked."""
    total = 0
    for count, member in enumerate(file, start=1):
        path = PurePosixPath(member.name)
        total += member.size
        if path.is_absolute() or ".." in path.parts:
            raise _refused(archive, f"the member {member.name!r} leaves the folder")
        if not (member.isreg() or member.isdir()):
            raise _refused(archive, f"the member {member.name!r} is a link or a device")
        if total > limit or count > MAX_MEMBERS:
            raise _refused(
                archive, f"it unpacks to more than {limit / 1e6:.0f} MB, or too many files"
            )
    return total


def _refused(archive: Path, why: str) -> SecurityError:
    return SecurityError(
        f"unsafe archive: {why}", where=archive, next_action="get the module from its publisher"
    )
