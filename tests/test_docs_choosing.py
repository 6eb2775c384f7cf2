"""The blocks of docs/choosing.md run, on a few real photos and real weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tltf.backbones.hub.archives import extract

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"


@pytest.mark.slow
@pytest.mark.usefixtures("keras_home")
def test_every_block_runs(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with tarfile.open(next((shared_data / "images/cats_dogs").glob("public.tar*"))) as archive:
        extract(archive, tmp_path)
    for folder in sorted(path for path in Path("cats_dogs").iterdir() if path.is_dir()):
        (Path("photos") / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:24]:
            shutil.copy(path, Path("photos") / folder.name)
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    said = []
    for text in blocks:
        done = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        said.append(done.stdout)
    assert len(said) == 3
    table = said[0].splitlines()
    assert table[0].split()[:2] == ["candidate", "probe"]
    assert table[2].split()[1] == "MobileNet:alpha=0.25@random"
    rows = json.loads(Path("rank/rank.json").read_text())["candidates"]
    # the file with the classifier lies in the shared cache
    assert rows[0]["leep"] is not None
    assert rows[0]["nce"] is not None
    assert rows[1]["leep"] is None
    rates = json.loads(Path("run/report/report.json").read_text())["rate_search"]
    assert set(rates) == {"head", "tune"}
    assert Path("search/tune.html").exists()
    assert Path("search/best/report/report.html").exists()
