"""One publish and prune, TensorFlow-free: a child process for tests that kill or race it.

``python publisher.py FOLDER CONTENT [KEEP]``: a prepared version with files that name CONTENT.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tltf import storage
from tltf.serving import publish

FILES = ("saved_model.pb", "variables/data", "assets/labels.txt", "assets.extra/warmup")


def write(temporary: Path, content: str) -> None:
    """A version whose files all say the same; a reader can tell a mixed or a partial one."""
    for name in FILES:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content * 50)


def publish_one(folder: Path, content: str, *, keep: int) -> Path:
    publish.remove_litter(folder)
    temporary = storage.sibling(folder / "version")
    write(temporary, content)
    final = publish.commit(temporary, folder)
    publish.prune(folder, keep=keep)
    return final


def whole(version: Path) -> bool:
    """Whether every file is there and says the same."""
    try:
        texts = {(version / name).read_text() for name in FILES}
    except OSError:
        return False
    return len(texts) == 1 and len(texts.pop()) >= 50


if __name__ == "__main__":
    publish_one(Path(sys.argv[1]), sys.argv[2], keep=int(sys.argv[3]) if sys.argv[3:] else 3)
