"""Hands the shards of a job out: one after the other here, or to the workers of Apache Beam."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tltf import storage
from tltf.errors import StorageError
from tltf.stages import bulk
from tltf.stages.bulk import Counts, Job, Worker

LOCAL = "local"
TOTAL = "total.json"

Progress = Callable[[int], None]


def run_job(
    job: Job, *, runner: str = LOCAL, options: Sequence[str] = (), progress: Progress | None = None
) -> Counts:
    """Does every shard that is not done; the same call goes on after a kill.

    Args:
      job: what to do.
      runner: ``local``, or one of Beam's.
      options: Beam's own, for example ``--direct_num_workers=2``.
      progress: called with 1 for every shard that is done here.

    Returns:
      Of all shards together, also written to ``total.json``.

    Raises:
      MismatchError: the folder holds another job.
      StorageError: a shard is missing at the end.
    """
    bulk.begin(job)
    if runner == LOCAL:
        worker = Worker(job)
        for shard in range(job.shards):
            worker(shard)
            if progress is not None:
                progress(1)
    else:
        _by_beam(job, runner, options)
    return _total(job)


def _by_beam(job: Job, runner: str, options: Sequence[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    class Work(beam.DoFn):  # type: ignore[misc]
        """A shard; the model is built once in each process."""

        def setup(self) -> None:
            self.worker = Worker(job)

        def process(self, shard: int) -> Iterator[int]:
            yield self.worker(shard).inputs

    given = PipelineOptions([f"--runner={runner}", *options], save_main_session=False)
    with beam.Pipeline(options=given) as pipeline:
        numbers = pipeline | "shards" >> beam.Create(range(job.shards))
        _ = numbers | beam.Reshuffle() | job.kind >> beam.ParDo(Work())


def _total(job: Job) -> Counts:
    found = [bulk.finished(job, shard) for shard in range(job.shards)]
    missing = [shard for shard, counts in enumerate(found) if counts is None]
    if missing:
        raise StorageError(
            f"{len(missing)} of {job.shards} shards are missing, the first is {missing[0]}",
            where=job.out,
            kept="the others",
            next_action="run the same command again",
        )
    counts = [c for c in found if c is not None]
    total = Counts(shard=-1, inputs=sum(c.inputs for c in counts),
                   failed=sum(c.failed for c in counts))  # fmt: skip
    storage.write_json(Path(job.out) / TOTAL, {"inputs": total.inputs, "failed": total.failed,
                                               "shards": job.shards})  # fmt: skip
    return total
