"""``tltf episodes``: how well few labels of new classes do, on features of a frozen backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from tltf import rundir
from tltf.backbones import catalog
from tltf.cli import run_flags
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow
from tltf.cli.spec_flags import BACKBONES, SOURCES
from tltf.errors import ArgumentError
from tltf.methods import EPISODE_METHODS, EpisodesSpec
from tltf.spec import BAD_FILES, BackboneSpec, DataSpec, TransferSpec

if TYPE_CHECKING:
    from tltf.stages.episodes import Episodes

DEFAULT = EpisodesSpec()
FLAGS = flags.FlagValues()


def _define() -> None:
    values = {"flag_values": FLAGS}
    text, whole, several = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    text("data", None, SOURCES, **values)
    text("backbone", None, BACKBONES, **values)
    text("weights", "imagenet", "imagenet, none, or the path of a weight file.", **values)
    whole("image_size", None, "Input side in pixels; the network's own if left out.", **values)
    whole("ways", DEFAULT.ways, "Classes of an episode.", **values)
    several("shots", [str(n) for n in DEFAULT.shots], "Labelled examples of each class, several"
            " numbers with commas.", **values)  # fmt: skip
    whole("queries", DEFAULT.queries, "Further examples of each class, to be answered.", **values)
    whole("episodes", DEFAULT.episodes, "That are measured on, at least 600.", **values)
    several("method", list(DEFAULT.methods), f"Some of {', '.join(EPISODE_METHODS)}; the last"
            " three learn from episodes of known classes first.", **values)  # fmt: skip
    several("novel", [], "Classes that are measured on; the others are known. Half of them by the"
            " seed if left out; all, if no method learns from known ones.", **values)  # fmt: skip
    whole("meta_episodes", DEFAULT.meta_episodes, "Of known classes, to learn from.", **values)
    whole("seed", 0, "Of classes, episodes and first weights.", lower_bound=0, **values)
    text("cache", "auto", "Frozen features: auto, off, or a folder for them.", **values)
    text("out", None, "Folder for episodes.json; none if left out.", **values)
    flags.DEFINE_enum("bad_files", "error", list(BAD_FILES), "What to do about unreadable files.",
                      **values)  # fmt: skip


_define()


def run(values: flags.FlagValues) -> None:
    run_flags.required(values, "data", "backbone")
    given = {name: values[name].value for name in values}
    asked = EpisodesSpec(
        ways=given["ways"],
        shots=_numbers(given["shots"]),
        queries=given["queries"],
        episodes=given["episodes"],
        methods=tuple(given["method"]),
        novel=tuple(given["novel"]),
        meta_episodes=given["meta_episodes"],
    )
    spec = TransferSpec(
        data=DataSpec(source=given["data"], bad_files=given["bad_files"]),
        backbone=BackboneSpec(
            name=given["backbone"], weights=given["weights"], image_size=given["image_size"]
        ),
        seed=given["seed"],
        precision="float32",
        cache=given["cache"],
    )
    choice = catalog.lookup(spec.backbone.name)
    if spec.backbone.weights == "imagenet":
        catalog.check_published(choice)
    run_flags.check_source(spec.data.source)
    out = Path(given["out"]) if given["out"] else None
    if out is not None:
        rundir.check_writable(out, flag="--out")
    import_tensorflow()
    from tltf.stages.episodes import run_episodes

    found = run_episodes(spec, asked, out=out, say=run_flags.say)
    print(*table(found, asked), sep="\n")
    if out is not None:
        print(f"\nnumbers: {out / 'episodes.json'}")


def table(found: Episodes, asked: EpisodesSpec) -> list[str]:
    """One line for each method, one column for each number of shots."""
    head = ("accuracy (95 % interval)", *(f"{n} shot{'s' * (n > 1)}" for n in asked.shots))
    cells = {(r.method, r.shots): r.accuracy for r in found.results}
    rows = [head]
    for method in asked.methods:
        numbers = (cells[method, shots] for shots in asked.shots)
        rows.append((method, *(f"{a.value:.3f} ({a.low:.3f} to {a.high:.3f})" for a in numbers)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [
        *lines,
        "",
        f"{asked.ways} ways, {asked.queries} queries, {asked.episodes} episodes of"
        f" {len(found.novel)} novel classes; the interval is over episodes: other classes would"
        " give other numbers",
    ]


def _numbers(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(text) for text in texts))
    except ValueError as error:
        raise ArgumentError(
            f"shots={','.join(texts)!r}, expected whole numbers",
            where="--shots",
            next_action="for example --shots=1,5",
        ) from error


PROGRAM = Program(
    name="tltf episodes",
    about="""measures how well few labels of new classes do, on features of a frozen backbone.

  tltf episodes --data=PHOTOS --backbone=MobileNetV2 --ways=5 --shots=1,5

Each episode takes some classes, a few labelled examples of each, and asks for the classes of
others.""",
    flag_values=FLAGS,
    run=run,
)
