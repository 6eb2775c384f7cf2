"""One process that reads photos on one thread, for the ceiling of G8.

``python -m experiments.benchmarks.alone SIZE PATH ...`` says ``ready``, waits for a line, reads
every photo, and prints photos per second. Several of them at once share nothing but the machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

COMMAND = [sys.executable, "-m", "experiments.benchmarks.alone"]


def together(paths: Sequence[str], *, size: int, processes: int) -> float:
    """Photos per second of so many processes together."""
    running = [
        subprocess.Popen([*COMMAND, str(size), *paths], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]  # fmt: skip
    for process in running:
        process.stdout.readline()  # type: ignore[union-attr]
    for process in running:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    return sum(float(process.communicate()[0]) for process in running)


def main(size: str, *paths: str) -> None:
    import tensorflow as tf

    from experiments.benchmarks.protocol import seconds
    from tltf.data.decoding import load_image

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1

    def read(path: tf.Tensor) -> tf.Tensor:
        return load_image(path, int(size))

    photos = tf.data.Dataset.from_tensor_slices(list(paths)).map(read).with_options(options)
    photos.take(8).reduce(0, lambda n, _: n + 1)
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(paths) / seconds(lambda: photos.reduce(0, lambda n, _: n + 1).numpy()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
