"""``tltf demo``: the whole story offline on real data."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tltf import rundir
from tltf.cli.app import Program
from tltf.cli.quiet import import_tensorflow

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", "tltf-demo", "Where its runs, report and servable go.",
                    flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("seeds", 3, "Draws of the few labels.", lower_bound=1, flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    folder = Path(values["workdir"].value)
    rundir.check_writable(folder, flag="--workdir")
    print("tltf demo: does a network that knows 0 to 4 help to learn 5 to 9?\n")
    import_tensorflow()
    from tltf import demo
    from tltf.evaluation.verdict import mean_accuracy

    story = demo.tell(folder, seeds=values["seeds"].value, say=lambda s: print(s, flush=True))
    for name, correct in (
        ("transferred ", story.transferred),
        ("from scratch", story.from_scratch),
    ):
        found = mean_accuracy(correct)
        print(
            f"   {name}  {100 * found.value:.1f} %  (95 % interval {100 * found.low:.1f} to"
            f" {100 * found.high:.1f}, {len(correct)} draws, n={found.n} test images)"
        )
    print(f"   verdict: {story.verdict.sentence}")
    print("3. send an unseen image to the servable:")
    answer = demo.ask(story)
    print(answer["picture"])
    print(f"   it says {answer['label']} (probability {answer['probability']:.2f});"
          f" the truth is {answer['truth']}")  # fmt: skip
    print(f"\nreport:   {story.report}\nservable: {story.servable}\n")
    print("next, with your own photos, one folder per class:")
    print("  tltf train --data=PHOTOS --backbone=MobileNetV2 --workdir=RUN")


PROGRAM = Program(
    name="tltf demo",
    about="""pretrains on the digits 0-4, transfers to 5-9 with few labels, compares with
training from scratch, writes a report and a servable, and asks the servable. Offline.""",
    flag_values=FLAGS,
    run=run,
)
