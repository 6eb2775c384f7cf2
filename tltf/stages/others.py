"""Other data without labels, as a run reads its own: for distances, and as unknown examples."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tltf.data import prepare
from tltf.data.manifest import Record
from tltf.errors import DataError, InputMissingError
from tltf.serving.inputs import TEXT, items
from tltf.spec import DataSpec
from tltf.trained import Trained


@dataclass(frozen=True)
class Others:
    """Records without labels, and how many files or texts could not be used."""

    records: Sequence[Record]
    left_out: int


def others(model: Trained, source: str, spec: DataSpec) -> Others:
    """The examples of ``source``, images or texts as the model takes them.

    Args:
      model: of the run.
      source: a folder of images at any depth, or a table of them; for a model of texts what ``tltf
        predict --inputs`` takes: a folder of texts, a table with a column ``text``, or lines.
      spec: of the run's data: its limits and its encoding hold here too.

    Raises:
      InputMissingError, DataError: there is nothing, or nothing of this kind.
    """
    if model.tokenizer is not None:
        return _texts(source, spec)
    if Path(source).is_dir():
        found = prepare.unlabelled(source, max_image_pixels=spec.max_image_pixels)
    else:
        found = prepare.scanned(DataSpec(source=source, max_image_pixels=spec.max_image_pixels))
    records = tuple(dataclasses.replace(record, label=None) for record in found.records)
    return Others(records, len(found.excluded))


def _texts(source: str, spec: DataSpec) -> Others:
    if not Path(source).exists():
        raise InputMissingError(
            "no such folder or file", where=source, next_action="name a folder or table of texts"
        )
    given = list(items(source, io.StringIO(), key=TEXT, encoding=spec.encoding))
    texts = [item.text for item in given if (item.text or "").strip()]
    if not texts:
        raise DataError(
            "no text in it, and the run reads texts", where=source, next_action="put texts there"
        )
    records = tuple(Record(id=str(i), text=text) for i, text in enumerate(texts, start=1))
    return Others(records, len(given) - len(texts))
