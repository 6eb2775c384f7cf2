"""Makes docs/serve.png: ``python tests/serving/make_page_picture.py DEMO_WORKDIR docs/serve.png``.

The model is that of ``tltf demo --workdir=DEMO_WORKDIR``, the image one of its unseen digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import browser
from test_server import _drop, running

from tltf.data.manifest import Manifest
from tltf.rundir import RunDir


def main(workdir: str, picture: str) -> None:
    run = RunDir(Path(workdir, "transfer-0"))
    manifest = Manifest.from_json_lines(run.manifest.read_text("utf-8").splitlines())
    digit = Path(manifest.split("test")[7].path or "").read_bytes()
    program = browser.found()
    assert program is not None, "needs a Chromium"
    with running(run.export, name="digits") as port, browser.page(program) as page:
        page.open(f"http://127.0.0.1:{port}/", width=820, height=760)
        page.wait("document.getElementById('about').textContent.includes('version')")
        page.evaluate(_drop(digit))
        page.wait("!document.getElementById('answer').hidden")
        Path(picture).write_bytes(page.screenshot())


if __name__ == "__main__":
    main(*sys.argv[1:])
