"""How many photos of 500x375 the audit looks at per second, and what bounds it.

    python -m experiments.benchmarks.audit_rate --photos=FOLDER

FOLDER holds one folder per class of JPEG photos. Beside the rate of the scan stands that of the
bare decoder: one thread, nothing but the decode.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from absl import flags

from tltf.cli.app import Program, execute

FLAGS = flags.FlagValues()
flags.DEFINE_string("photos", None, "Folder of classes of JPEG photos.", flag_values=FLAGS)


def run(values: flags.FlagValues) -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TLTF_CACHE_DIR"] = cache
        from tltf.data import decoders, scan, sources

        manifest = sources.load(values["photos"].value)
        n = len(manifest.records)
        paths = [Path(str(record.path)) for record in manifest.records]
        started = time.perf_counter()
        decoders.decoders().decode(paths[0].read_bytes())
        print(f"start of the decoders: {time.perf_counter() - started:.1f} s")
        for name in ("never seen", "seen before"):
            started = time.perf_counter()
            scan.examine(manifest, max_image_pixels=64_000_000)
            print(f"{name}: {n / (time.perf_counter() - started):,.0f} photos/s, n={n}")
        _bare(paths)


def _bare(paths: list[Path]) -> None:
    import tensorflow as tf

    from tltf.data.decoding import decode_kind

    data = [tf.constant(path.read_bytes()) for path in paths[:1000]]
    decode_kind(data[0], "JPEG")
    started = time.perf_counter()
    for one in data:
        decode_kind(one, "JPEG")
    print(f"bare decode, one thread: {len(data) / (time.perf_counter() - started):,.0f} photos/s")


PROGRAM = Program(name="audit_rate", about=__doc__ or "", flag_values=FLAGS, run=run)

if __name__ == "__main__":
    import sys

    sys.exit(execute(PROGRAM, sys.argv[1:]))
