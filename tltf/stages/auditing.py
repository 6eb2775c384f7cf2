"""An audit as a whole: the scan with a bar, ``audit.json`` and ``audit.html``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tltf import storage
from tltf.data import audit, decoders
from tltf.evaluation import auditpage
from tltf.spec import DataSpec
from tltf.terminal import counted

THUMBNAIL = 112


def run_audit(spec: DataSpec, *, out: Path | None = None) -> dict[str, Any]:
    """Audits the data; writes ``audit.json`` and ``audit.html`` into ``out`` if it is given.

    Raises:
      InputMissingError, DownloadError, ArgumentError: see :func:`tltf.data.audit.audit`.
    """
    with counted("scan", unit="files") as progress:
        audited = audit.audit(spec, progress=progress)
    found = audited.found
    if out is not None:
        out.mkdir(exist_ok=True)
        storage.write_json(out / "audit.json", found)
        storage.write_text(out / "audit.html", auditpage.write_html(found, _thumbnails(audited)))
    return found


def _thumbnails(audited: audit.Audited) -> dict[str, str]:
    """Row -> JPEG in base64, of what the page shows: warnings, copies and pairs."""
    workers = decoders.decoders()
    pictures = {}
    for name in auditpage.shown(audited.found):
        if name in audited.paths:
            with contextlib.suppress(OSError):
                data = Path(audited.paths[name]).read_bytes()
                pictures[name] = workers.decode(data, thumbnail=THUMBNAIL).get("thumbnail", "")
    return pictures
