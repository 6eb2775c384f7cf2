"""The photos of a measurement: the same bytes and the same split for both sides."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.quality import unpacked
from tltf.spec import DataSpec

if TYPE_CHECKING:
    from tltf.data.batches import Batches
    from tltf.data.manifest import Manifest

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Some photos of an image set, split, as a manifest and as folders.

    Args:
      source: one folder per class.
      folders: one folder per split, with one per class, for the other side.
      manifest: the same for ours.
      image_size: side in pixels.
      work: where the folders are.
    """

    source: Path
    folders: Path
    manifest: Manifest
    image_size: int
    work: Path

    def split_by(self, seed: int) -> Photos:
        """The same photos, split anew by another seed."""
        return split(self.source, seed=seed, image_size=self.image_size, work=self.work)

    def batches(self, split: str, *, batch_size: int = 32, **settings: Any) -> Batches:
        """A split as our batches."""
        from tltf.data.batches import Batches

        manifest = self.manifest
        given = {"augment": "none", "views": 1} | settings
        return Batches(
            manifest.split(split),
            classes=manifest.classes,
            task=manifest.task,
            image_size=self.image_size,
            batch_size=batch_size,
            **given,
        )


def prepared(name: str, *, count: int, image_size: int, work: Path) -> Photos:
    """At most ``count`` photos of a set, the same number of each class, split by seed 0."""
    everything = unpacked(name, work / "data")
    source = work / f"{name}-{count}"
    if not source.exists():
        classes = sorted(path for path in everything.iterdir() if path.is_dir())
        for folder in classes:
            (source / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[: count // len(classes)]:
                shutil.copy(path, source / folder.name / path.name)
    return split(source, seed=0, image_size=image_size, work=work)


def split(source: Path, *, seed: int, image_size: int, work: Path) -> Photos:
    """The photos of a folder, split by a seed."""
    from tltf.data import prepare

    manifest = prepare.prepared(DataSpec(source=str(source)), seed=seed)
    folders = work / f"{source.name}-split-{seed}"
    if not folders.exists():
        for part in SPLITS:
            for label in manifest.classes:
                (folders / part / label).mkdir(parents=True)
            for record in manifest.split(part):
                shutil.copy(str(record.path), folders / part / str(record.label))
    return Photos(source=source, folders=folders, manifest=manifest, image_size=image_size,
                  work=work)  # fmt: skip
